// Statistics files: safetensors with, for each input group,
//   GROUP.sum_squares  U8  [cols, 8]              little-endian binary64 sums of squares of each channel
//   GROUP.max_abs      F32 [cols]                 largest magnitude of each channel
//   GROUP.outer        F32 [cols (cols + 1) / 2]  rows of the lower triangle of the sum of x x'; only if asked for
// Groups are written as soon as their block of the model is done, so that memory holds one block's.
#include <bit>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>

#include "core/kernels/kernels.h"
#include "core/model/stream.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

constexpr char kSumSquaresSuffix[] = ".sum_squares";
constexpr char kMaxAbsSuffix[] = ".max_abs";
constexpr char kOuterSuffix[] = ".outer";
constexpr char kTokensKey[] = "tokens";

static_assert(std::endian::native == std::endian::little);

int64_t TriangleSize(int64_t n) { return n * (n + 1) / 2; }

struct GroupSums {
  std::vector<double> squares;
  std::vector<float> max_abs;
  std::vector<float> outer;  // lower triangle, row by row
};

// Tokens are added in order for every column, whatever the number of threads.
void AddSquares(const float* x, int64_t tokens, int64_t cols, ThreadPool& pool, GroupSums& sums) {
  sums.squares.resize(static_cast<size_t>(cols));
  sums.max_abs.resize(static_cast<size_t>(cols));
  pool.ParallelFor(cols, 256, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = x + t * cols;
      for (int64_t j = begin; j < end; ++j) {
        const auto i = static_cast<size_t>(j);
        sums.squares[i] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
        sums.max_abs[i] = std::max(sums.max_abs[i], std::fabs(row[j]));
      }
    }
  });
}

// Adds x' x. Every entry is one dot product over the tokens, so it does not depend on how the work is split.
void AddOuterProducts(const float* x, int64_t tokens, int64_t cols, ThreadPool& pool, std::vector<float>& sums) {
  constexpr int64_t kRows = 32, kColumns = 64;  // of 1024 tokens: 384 KiB, within a second-level cache
  const int64_t padded = (tokens + 7) / 8 * 8;
  std::vector<float> channels(static_cast<size_t>(cols * padded), 0.0f);
  pool.ParallelFor(cols, 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t j = begin; j < end; ++j) channels[static_cast<size_t>(j * padded + t)] = x[t * cols + j];
    }
  });
  sums.resize(static_cast<size_t>(TriangleSize(cols)));
  const Kernels& kernels = BestKernels();
  pool.ParallelFor((cols + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    float product[kRows * kColumns];
    for (int64_t i0 = begin * kRows; i0 < std::min(cols, end * kRows); i0 += kRows) {
      const int64_t i1 = std::min(cols, i0 + kRows);
      for (int64_t j0 = 0; j0 < i1; j0 += kColumns) {
        const int64_t j1 = std::min(i1, j0 + kColumns);
        const DenseRows w{&channels[static_cast<size_t>(j0 * padded)], DenseType::kF32, padded};
        kernels.dense_matmul(
            {&channels[static_cast<size_t>(i0 * padded)], padded, w, product, kColumns, i1 - i0, j1 - j0, padded});
        for (int64_t i = i0; i < i1; ++i) {
          float* row = &sums[static_cast<size_t>(TriangleSize(i))];
          for (int64_t j = j0; j < std::min(j1, i + 1); ++j) row[j] += product[(i - i0) * kColumns + j - j0];
        }
      }
    }
  });
}

// Sums of the block that is running, and the file that finished blocks go to.
class StatisticsWriter {
 public:
  static absl::StatusOr<StatisticsWriter> Create(const Checkpoint& checkpoint, bool outer, int64_t tokens,
                                                 const std::string& path) {
    std::vector<SafetensorsWriter::Declaration> declarations;
    for (int64_t layer = 0; layer < checkpoint.config().num_layers; ++layer) {
      for (const GroupNames& group : LinearGroupNames(layer)) {
        const int64_t cols = checkpoint.Info(group.layers.front() + ".weight").cols();
        declarations.push_back({group.name + kSumSquaresSuffix, DType::kU8, {cols, 8}});
        declarations.push_back({group.name + kMaxAbsSuffix, DType::kF32, {cols}});
        if (outer) declarations.push_back({group.name + kOuterSuffix, DType::kF32, {TriangleSize(cols)}});
      }
    }
    ASSIGN_OR_RETURN(SafetensorsWriter file,
                     SafetensorsWriter::Create(path, declarations, {{kTokensKey, std::to_string(tokens)}}));
    return StatisticsWriter(std::move(file), outer);
  }

  void Add(const LinearGroup& group, const float* x, int64_t tokens, ThreadPool& pool) {
    // The first group again, under another name: the model is at its next block.
    if (!sums_.empty() && order_.front() != group.name && sums_.size() == LinearGroupNames(0).size() &&
        !sums_.contains(group.name)) {
      Flush();
    }
    if (!sums_.contains(group.name)) order_.push_back(group.name);
    GroupSums& sums = sums_[group.name];
    AddSquares(x, tokens, group.cols(), pool, sums);
    if (outer_) AddOuterProducts(x, tokens, group.cols(), pool, sums.outer);
  }

  const absl::Status& status() const { return status_; }

  absl::Status Commit() {
    Flush();
    RETURN_IF_ERROR(status_);
    return file_.Commit();
  }

 private:
  StatisticsWriter(SafetensorsWriter file, bool outer) : file_(std::move(file)), outer_(outer) {}

  void Flush() {
    for (const std::string& group : order_) {
      if (status_.ok()) status_ = file_.Append(std::as_bytes(std::span(sums_[group].squares)));
      if (status_.ok()) status_ = file_.Append(std::as_bytes(std::span(sums_[group].max_abs)));
      if (status_.ok() && outer_) status_ = file_.Append(std::as_bytes(std::span(sums_[group].outer)));
    }
    order_.clear();
    sums_.clear();
  }

  SafetensorsWriter file_;
  bool outer_;
  absl::Status status_;
  std::vector<std::string> order_;  // of sums_, as first seen
  std::map<std::string, GroupSums> sums_;
};

// total[j] = merge(total[j], one shard's tensor of type T).
template <typename T, typename Merge>
absl::Status MergeStored(const SafetensorsReader& shard, const std::string& name, std::vector<T>& total, Merge merge) {
  const TensorInfo* info = shard.Find(name);
  if (info == nullptr || info->bytes != total.size() * sizeof(T)) {
    return DataLoss("STATISTICS_INVALID", "{}: no {} of {} values", shard.origin(), name, total.size());
  }
  std::vector<T> values(total.size());
  RETURN_IF_ERROR(shard.ReadBytes(*info, 0, std::as_writable_bytes(std::span(values))));
  for (size_t j = 0; j < total.size(); ++j) total[j] = merge(total[j], values[j]);
  return absl::OkStatus();
}

}  // namespace

absl::Status CalibrateShard(const Checkpoint& checkpoint, const QuantizeSpec& spec,
                            const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool, ProgressFn progress,
                            const std::string& out_path) {
  int64_t tokens = 0;
  for (const auto& window : windows) tokens += static_cast<int64_t>(window.size());
  ASSIGN_OR_RETURN(StatisticsWriter writer,
                   StatisticsWriter::Create(checkpoint, spec.error_feedback, tokens, out_path));
  auto observe = [&](const LinearGroup& group, const float* x, int64_t rows) { writer.Add(group, x, rows, pool); };
  auto report = [&](double fraction) -> absl::Status {
    RETURN_IF_ERROR(writer.status());
    return progress(fraction);
  };
  const InputObserver observer = observe;
  RETURN_IF_ERROR(StreamForward(checkpoint, windows, pool, &observer, report, nullptr));
  return writer.Commit();
}

absl::StatusOr<GroupStatistics> ReadStatistics(const std::vector<std::string>& shards, const std::string& group,
                                               int64_t cols, bool outer) {
  GroupStatistics out;
  out.mean_square.resize(static_cast<size_t>(cols));
  out.max_abs.resize(static_cast<size_t>(cols));
  std::vector<float> triangle(outer ? static_cast<size_t>(TriangleSize(cols)) : 0);
  int64_t tokens = 0;
  for (const std::string& path : shards) {
    ASSIGN_OR_RETURN(auto shard, SafetensorsReader::Open(FileSet(path, {{"statistics.safetensors", path, 0}})));
    RETURN_IF_ERROR(MergeStored(*shard, group + kSumSquaresSuffix, out.mean_square, std::plus<double>()));
    RETURN_IF_ERROR(
        MergeStored(*shard, group + kMaxAbsSuffix, out.max_abs, [](float a, float b) { return std::max(a, b); }));
    if (outer) RETURN_IF_ERROR(MergeStored(*shard, group + kOuterSuffix, triangle, std::plus<float>()));
    const auto count = shard->metadata().find(kTokensKey);
    if (count != shard->metadata().end()) tokens += std::atoll(count->second.c_str());
  }
  if (tokens <= 0) return DataLoss("STATISTICS_INVALID", "the statistics of {} count no tokens", group);
  for (double& value : out.mean_square) value /= static_cast<double>(tokens);
  if (!outer) return out;
  out.outer.resize(static_cast<size_t>(cols * cols));
  for (int64_t i = 0; i < cols; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      const float mean = triangle[static_cast<size_t>(TriangleSize(i) + j)] / static_cast<float>(tokens);
      out.outer[static_cast<size_t>(i * cols + j)] = out.outer[static_cast<size_t>(j * cols + i)] = mean;
    }
  }
  return out;
}

}  // namespace qamserve
