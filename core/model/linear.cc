#include "core/model/linear.h"

#include <algorithm>

#include "core/codec/int8_packing.h"
#include "core/codec/packing.h"

namespace qamserve {
namespace {

// Calls body(layer, begin, end) for ranges of units (rows or strips) that cover all layers of a group. Each call of the
// pool gets about a quarter of a thread's share, so that a slow core does not hold the others up for long.
template <typename UnitsOf, typename Body>
void ForEachUnit(const LinearGroup& group, ThreadPool& pool, int64_t min_grain, UnitsOf units_of, Body body) {
  int64_t total = 0;
  for (const Linear& layer : group.layers) total += units_of(layer);
  const int64_t grain = std::max(min_grain, (total + pool.threads() * 4 - 1) / (pool.threads() * 4));
  pool.ParallelFor(total, grain, [&](int64_t begin, int64_t end) {
    int64_t first = 0;
    for (size_t i = 0; i < group.layers.size(); ++i) {
      const int64_t units = units_of(group.layers[i]);
      const int64_t from = std::max(begin - first, int64_t{0}), to = std::min(end - first, units);
      if (from < to) body(i, from, to);
      first += units;
    }
  });
}

void QuantizeActivations(const LinearGroup& group, const float* x, int64_t x_stride, int64_t tokens,
                         const Kernels& kernels, ThreadPool& pool, PackedActivations& out) {
  const int64_t cols = group.cols(), padded = PaddedCols(cols);
  const bool int8 = group.layers.front().int8;
  if (int8) {
    out.q8.resize(static_cast<size_t>(tokens * padded));
  } else {
    out.q.resize(static_cast<size_t>(tokens * padded));
  }
  out.scale.resize(static_cast<size_t>(tokens));
  // A few thousand columns a call, by estimate more than waking a thread costs; the grain was not tuned by measuring.
  const int64_t grain = std::clamp<int64_t>(2048 / cols, 1, 4);
  pool.ParallelFor(tokens, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(2 * cols));
    for (int64_t t = begin; t < end; ++t) {
      const float* source = x + t * x_stride;
      if (group.inverse_scale.empty()) {
        std::copy(source, source + cols, row.begin());
      } else {
        for (int64_t j = 0; j < cols; ++j)
          row[static_cast<size_t>(j)] = source[j] * group.inverse_scale[static_cast<size_t>(j)];
      }
      group.rotation->Apply(row.data(), row.data() + cols);
      out.scale[static_cast<size_t>(t)] =
          int8 ? kernels.quantize_input8(row.data(), cols, padded, out.q8.data() + t * padded)
               : kernels.quantize_input(row.data(), cols, padded, out.q.data() + t * padded);
    }
  });
}

void ApplyPacked(const LinearGroup& group, const PackedActivations& activations, int64_t tokens,
                 std::span<const OutputRows> outputs, const Kernels& kernels, ThreadPool& pool) {
  const PackedInput input{activations.q.data(), PaddedCols(group.cols()), activations.scale.data(), tokens};
  const Int8Input input8{activations.q8.data(), PaddedCols(group.cols()), activations.scale.data(), tokens};
  ForEachUnit(
      group, pool, 1, [](const Linear& layer) { return StripsDown(layer.rows); },
      [&](size_t i, int64_t begin, int64_t end) {
        if (group.layers[i].int8) {
          return kernels.int8_matmul({group.layers[i].Int8(), input8, outputs[i].data, outputs[i].stride, begin, end});
        }
        alignas(64) char scratch[kPackedScratchBytes];
        kernels.packed_matmul(
            {group.layers[i].Packed(), input, outputs[i].data, outputs[i].stride, begin, end, scratch});
      });
}

void ApplyDense(const LinearGroup& group, const float* x, int64_t x_stride, int64_t tokens,
                std::span<const OutputRows> outputs, const Kernels& kernels, ThreadPool& pool) {
  ForEachUnit(
      group, pool, 16, [](const Linear& layer) { return layer.rows; },
      [&](size_t i, int64_t begin, int64_t end) {
        // 32 rows of up to 4096 columns stay in a 1 MB second-level cache while all tokens pass.
        for (int64_t o = begin; o < end; o += 32) {
          DenseRows w = group.layers[i].Dense();
          const int64_t element = w.type == DenseType::kF32 ? 4 : 2;
          w.data = static_cast<const char*>(w.data) + o * w.stride * element;
          kernels.dense_matmul({x, x_stride, w, outputs[i].data + o, outputs[i].stride, tokens,
                                std::min<int64_t>(32, end - o), group.cols()});
        }
      });
}

}  // namespace

int64_t Linear::WeightBytes() const {
  if (packed())
    return (int8 ? Int8Bytes(rows, cols) : PackedBytes(rows, cols, pair_bits)) +
           static_cast<int64_t>(row_scale.size() * sizeof(float));
  return rows * cols * (dense_type == DenseType::kF32 ? 4 : 2);
}

void ApplyGroup(const LinearGroup& group, const float* x, int64_t x_stride, int64_t tokens,
                std::span<const OutputRows> outputs, const Kernels& kernels, ThreadPool& pool,
                PackedActivations& activations) {
  if (group.layers.front().packed()) {
    QuantizeActivations(group, x, x_stride, tokens, kernels, pool, activations);
    ApplyPacked(group, activations, tokens, outputs, kernels, pool);
  } else {
    ApplyDense(group, x, x_stride, tokens, outputs, kernels, pool);
  }
  for (size_t i = 0; i < group.layers.size(); ++i) {
    const std::vector<float>& bias = group.layers[i].bias;
    for (int64_t t = 0; t < (bias.empty() ? 0 : tokens); ++t) {
      float* y = outputs[i].data + t * outputs[i].stride;
      for (size_t r = 0; r < bias.size(); ++r) y[r] += bias[r];
    }
  }
}

void ReadRow(const Linear& embedding, int64_t row, const Kernels& kernels, float* out) {
  const int64_t cols = embedding.cols;
  if (!embedding.packed()) {
    const DenseRows w = embedding.Dense();
    const int64_t element = w.type == DenseType::kF32 ? 4 : 2;
    return kernels.to_float(static_cast<const char*>(w.data) + row * w.stride * element, w.type, cols, out);
  }
  const Int8Matrix w = embedding.Int8();
  for (int64_t c = 0; c < cols; ++c) {
    out[c] = static_cast<float>(w.data[Int8Offset(cols, row, c)]) * w.row_scale[row];
  }
  std::vector<float> scratch(static_cast<size_t>(cols));
  embedding.rotation->ApplyInverse(out, scratch.data());
}

HeadInput::HeadInput(const Linear& head, const float* hidden, int64_t n, const Kernels& kernels)
    : head_(head), hidden_(hidden), n_(n), kernels_(kernels) {
  if (!head.packed()) return;
  const int64_t padded = PaddedCols(head.cols);
  quantized_.q.resize(static_cast<size_t>(n * padded));
  std::vector<float> row(static_cast<size_t>(2 * head.cols));
  for (int64_t t = 0; t < n; ++t) {
    std::copy_n(hidden + t * head.cols, head.cols, row.begin());
    head.rotation->Apply(row.data(), row.data() + head.cols);
    quantized_.scale.push_back(kernels.quantize_input(row.data(), head.cols, padded, quantized_.q.data() + t * padded));
  }
}

void HeadInput::Logits(int64_t begin, int64_t end, float* logits, int64_t stride) const {
  const int64_t cols = head_.cols;
  if (!head_.packed()) {
    DenseRows w = head_.Dense();
    w.data = static_cast<const char*>(w.data) + begin * w.stride * (w.type == DenseType::kF32 ? 4 : 2);
    return kernels_.dense_matmul({hidden_, cols, w, logits, stride, n_, end - begin, cols});
  }
  const Int8Matrix w = head_.Int8();
  const Int8Matrix rows{w.data + begin / kTileRows * Int8StripBytes(cols), w.row_scale + begin, end - begin, cols};
  const PackedInput input{quantized_.q.data(), PaddedCols(cols), quantized_.scale.data(), n_};
  kernels_.int8_wide_matmul({rows, input, logits, stride, 0, StripsDown(end - begin)});
}

void ApplyHead(const Linear& head, const float* hidden, int64_t n, const Kernels& kernels, ThreadPool& pool,
               float* logits) {
  constexpr int64_t kRows = 64;  // of up to 4096 columns in 16 bits: half a second-level cache
  const HeadInput input(head, hidden, n, kernels);
  const int64_t blocks = (head.rows + kRows - 1) / kRows;
  pool.ParallelFor(blocks, std::max<int64_t>(1, blocks / (pool.threads() * 8)), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin * kRows; o < std::min(head.rows, end * kRows); o += kRows) {
      input.Logits(o, std::min(o + kRows, head.rows), logits + o, head.rows);
    }
  });
}

}  // namespace qamserve
