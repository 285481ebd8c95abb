#include "core/quantize/strip.h"

#include <algorithm>
#include <cmath>

#include "core/codec/half.h"
#include "core/codec/joint.h"
#include "core/kernels/kernels.h"

namespace qamserve {
namespace {

// Columns whose feedback to each other is added one by one; what came before them comes in one product. 64 columns of
// the factor, 4096 deep, are 1 MiB.
constexpr int64_t kBlockCols = 64;
constexpr uint16_t kInfiniteHalf = 0x7c00;

// The rows of a strip on their way: normalized, column by column, so that 32 rows lie beside each other.
class Columns {
 public:
  Columns(const StripContext& context, int64_t count)
      : context_(context),
        n_(context.rotation.size()),
        count_(count),
        coder_(context.tables.MakeCoder()),
        values_(static_cast<size_t>(n_ * kTileRows), 0.0f),
        errors_(context.feedback == nullptr ? 0 : static_cast<size_t>(n_ * kTileRows), 0.0f) {}

  void Set(int64_t row, std::span<const float> normalized) {
    for (int64_t j = 0; j < n_; ++j) values_[Index(j, row)] = normalized[static_cast<size_t>(j)];
  }
  float Get(int64_t row, int64_t col) const { return values_[Index(col, row)]; }

  // Values become what their codes decode to. `loss` gets each row's e D e', summed over the pairs.
  void Encode(std::span<uint8_t> packed, std::span<double> loss) {
    for (int64_t block = 0; block < n_; block += kBlockCols) {
      const int64_t end = std::min(n_, block + kBlockCols);
      if (context_.feedback != nullptr) FeedForward(block, end);
      for (int64_t col = block; col < end; col += 2) EncodePair(block, col, packed, loss);
    }
  }

 private:
  size_t Index(int64_t col, int64_t row) const { return static_cast<size_t>(col * kTileRows + row); }

  // feedback_[col - begin][row] for columns [begin, end): the share of all columns before `begin`.
  void FeedForward(int64_t begin, int64_t end) {
    float product[kTileRows * kBlockCols] = {};
    if (begin > 0) {
      const DenseRows w{&context_.feedback->rows()[static_cast<size_t>(begin * n_)], DenseType::kF32, n_};
      BestKernels().dense_matmul({errors_.data(), n_, w, product, kBlockCols, kTileRows, end - begin, begin});
    }
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int64_t c = 0; c < end - begin; ++c) feedback_[c][r] = product[r * kBlockCols + c];
    }
  }

  void EncodePair(int64_t block, int64_t col, std::span<uint8_t> packed, std::span<double> loss) {
    float* original[2] = {&values_[Index(col, 0)], &values_[Index(col + 1, 0)]};
    float target[2][kTileRows];
    for (int c = 0; c < 2; ++c) {
      std::copy_n(original[c], kTileRows, target[c]);
      if (context_.feedback != nullptr) AddFeedback(block, col + c, col, target[c]);
    }
    float decoded[2][kTileRows];
    std::copy_n(&target[0][0], 2 * kTileRows, &decoded[0][0]);
    uint16_t codes[kTileRows];
    coder_->Encode(decoded[0], decoded[1], codes);
    for (int r = 0; r < kTileRows; ++r) {
      StoreCode(context_.tables.format(), packed.data(), n_, r, col, codes[r]);
    }
    for (int64_t r = 0; context_.feedback != nullptr && r < count_; ++r) {
      const auto& [d0, d1, d2] = context_.feedback->weights()[static_cast<size_t>(col / 2)];
      const double e0 = static_cast<double>(target[0][r]) - static_cast<double>(decoded[0][r]);
      const double e1 = static_cast<double>(target[1][r]) - static_cast<double>(decoded[1][r]);
      loss[static_cast<size_t>(r)] += d0 * e0 * e0 + 2 * d1 * e0 * e1 + d2 * e1 * e1;
    }
    for (int c = 0; c < 2; ++c) {
      for (int64_t r = 0; r < kTileRows; ++r) {
        if (context_.feedback != nullptr) {
          const float error = original[c][r] - decoded[c][r];
          errors_[static_cast<size_t>(r * n_ + col + c)] = error;
          block_errors_[col + c - block][r] = error;
        }
        original[c][r] = decoded[c][r];
      }
    }
  }

  // Adds the feedback of columns before `pair` to 32 targets of column `col`.
  void AddFeedback(int64_t block, int64_t col, int64_t pair, float* target) const {
    const float* factors = &context_.feedback->rows()[static_cast<size_t>(col * n_)];
    float sum[kTileRows];
    std::copy_n(feedback_[col - block], kTileRows, sum);
    for (int64_t i = block; i < pair; ++i) {
      const float* errors = block_errors_[i - block];
      for (int r = 0; r < kTileRows; ++r) sum[r] += errors[r] * factors[i];
    }
    for (int r = 0; r < kTileRows; ++r) target[r] += sum[r];
  }

  const StripContext& context_;
  const int64_t n_;
  const int64_t count_;
  std::unique_ptr<PairCoder> coder_;
  std::vector<float> values_;  // [cols][32]
  std::vector<float> errors_;  // [32][cols] of the columns done, as the product wants them
  float feedback_[kBlockCols][kTileRows];
  float block_errors_[kBlockCols][kTileRows];
};

void AddWeightedError(const StripContext& context, std::span<const float> original, std::span<float> reconstructed,
                      std::span<float> scratch, StripOutcome& out) {
  context.rotation.ApplyInverse(reconstructed.data(), scratch.data());
  for (size_t j = 0; j < original.size(); ++j) {
    const double w = static_cast<double>(original[j]);
    const float r = context.scale.empty() ? reconstructed[j] : reconstructed[j] / context.scale[j];
    const double error = static_cast<double>(r) - w;
    out.weighted += context.mean_square[j] * error * error;
    out.weighted_energy += context.mean_square[j] * w * w;
  }
}

void AddRow(double relative, StripOutcome& out) {
  out.relative += relative;
  out.worst_row = std::max(out.worst_row, relative);
}

absl::Status NormTooLarge(int64_t row) {
  return InvalidArgument("TENSOR_RANGE", "row {}: its norm does not fit binary16 (65504)", row);
}

// Row by row, for codecs that need nothing of other rows.
absl::StatusOr<StripOutcome> EncodeRows(const StripContext& context, std::span<float> rows, std::span<uint16_t> norms,
                                        std::span<uint8_t> packed) {
  StripOutcome out;
  const auto n = static_cast<size_t>(context.rotation.size());
  std::vector<float> original(n), scratch(n);
  std::vector<std::vector<uint16_t>> codes(norms.size(), std::vector<uint16_t>((n + 1) / 2));
  for (size_t r = 0; r < norms.size(); ++r) {
    const std::span<float> row = rows.subspan(r * n, n);
    std::copy(row.begin(), row.end(), original.begin());
    const EncodedRow encoded = EncodeRow(context.tables.format(), context.rotation, *context.tables.nearest(),
                                         context.scale, row, scratch, codes[r]);
    if (encoded.norm == kInfiniteHalf) return NormTooLarge(static_cast<int64_t>(r));
    norms[r] = encoded.norm;
    if (encoded.energy > 0) AddRow(encoded.squared_error / encoded.energy, out);
    if (!context.mean_square.empty()) AddWeightedError(context, original, row, scratch, out);
  }
  PackStrip(codes, context.tables.format().pair_bits, packed);
  return out;
}

}  // namespace

absl::StatusOr<StripOutcome> EncodeStrip(const StripContext& context, std::span<float> rows, std::span<uint16_t> norms,
                                         std::span<uint8_t> packed) {
  if (context.feedback == nullptr && context.tables.nearest() != nullptr) {
    return EncodeRows(context, rows, norms, packed);
  }
  StripOutcome out;
  const auto n = static_cast<size_t>(context.rotation.size()), count = norms.size();
  std::vector<float> rotated(n), scratch(n);
  std::vector<double> energy(count), loss(count, 0.0);
  Columns columns(context, static_cast<int64_t>(count));
  for (size_t r = 0; r < count; ++r) {
    for (size_t j = 0; j < n; ++j) rotated[j] = rows[r * n + j] * (context.scale.empty() ? 1.0f : context.scale[j]);
    context.rotation.Apply(rotated.data(), scratch.data());
    for (float w : rotated) energy[r] += static_cast<double>(w) * static_cast<double>(w);
    norms[r] = RowNorm(context.tables.format(), rotated, energy[r]);
    if (norms[r] == kInfiniteHalf) return NormTooLarge(static_cast<int64_t>(r));
    const float norm = HalfToFloat(norms[r]);
    // A zero row, or one below the smallest binary16: its codes do not matter, the norm makes them zero.
    for (float& w : rotated) w = norm == 0.0f ? 0.0f : w / norm;
    columns.Set(static_cast<int64_t>(r), rotated);
  }
  columns.Encode(packed, loss);
  for (size_t r = 0; r < count; ++r) {
    const float norm = HalfToFloat(norms[r]);
    const std::span<float> row = rows.subspan(r * n, n);
    std::copy(row.begin(), row.end(), rotated.begin());
    for (size_t j = 0; j < n && !context.scale.empty(); ++j) rotated[j] *= context.scale[j];
    context.rotation.Apply(rotated.data(), scratch.data());
    double error = 0;
    for (size_t j = 0; j < n; ++j) {
      const float decoded = columns.Get(static_cast<int64_t>(r), static_cast<int64_t>(j)) * norm;
      const double d = static_cast<double>(decoded) - static_cast<double>(rotated[j]);
      error += d * d;
      rotated[j] = decoded;
    }
    if (energy[r] > 0) AddRow(error / energy[r], out);
    out.feedback_loss += loss[r] * static_cast<double>(norm) * static_cast<double>(norm);
    if (!context.mean_square.empty()) AddWeightedError(context, row, rotated, scratch, out);
  }
  return out;
}

}  // namespace qamserve
