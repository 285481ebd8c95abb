// Statistics files: safetensors with one U8 [cols, 8] tensor a group, little-endian binary64 sums of squares.
#include <bit>
#include <cstring>
#include <map>

#include "core/model/stream.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

using Sums = std::map<std::string, std::vector<double>>;

// Tokens are added in order for every column, whatever the number of threads.
void AddSquares(const float* x, int64_t tokens, int64_t cols, ThreadPool& pool, std::vector<double>& sums) {
  sums.resize(static_cast<size_t>(cols));
  pool.ParallelFor(cols, 256, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = x + t * cols;
      for (int64_t j = begin; j < end; ++j) {
        sums[static_cast<size_t>(j)] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
      }
    }
  });
}

absl::Status WriteStatistics(const Sums& sums, int64_t tokens, const std::string& path) {
  static_assert(std::endian::native == std::endian::little);
  std::vector<SafetensorsWriter::Declaration> declarations;
  for (const auto& [group, values] : sums) {
    declarations.push_back({group + kSumSquaresSuffix, DType::kU8, {static_cast<int64_t>(values.size()), 8}});
  }
  ASSIGN_OR_RETURN(SafetensorsWriter writer,
                   SafetensorsWriter::Create(path, declarations, {{kTokensKey, std::to_string(tokens)}}));
  for (const auto& [group, values] : sums) RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(values))));
  return writer.Commit();
}

}  // namespace

absl::Status CalibrateShard(const Checkpoint& checkpoint, const std::vector<std::vector<int32_t>>& windows,
                            ThreadPool& pool, ProgressFn progress, const std::string& out_path) {
  Sums sums;
  int64_t tokens = 0;
  for (const auto& window : windows) tokens += static_cast<int64_t>(window.size());
  auto observe = [&](const LinearGroup& group, const float* x, int64_t rows) {
    AddSquares(x, rows, group.cols(), pool, sums[group.name]);
  };
  const InputObserver observer = observe;
  RETURN_IF_ERROR(StreamForward(checkpoint, windows, pool, &observer, progress, nullptr));
  return WriteStatistics(sums, tokens, out_path);
}

absl::StatusOr<std::vector<double>> ReadMeanSquares(const std::vector<std::string>& shards, const std::string& group,
                                                    int64_t cols) {
  std::vector<double> total(static_cast<size_t>(cols), 0.0);
  int64_t tokens = 0;
  for (const std::string& shard : shards) {
    ASSIGN_OR_RETURN(auto reader, SafetensorsReader::Open(FileSet(shard, {{"statistics.safetensors", shard, 0}})));
    const TensorInfo* info = reader->Find(group + kSumSquaresSuffix);
    const auto count = reader->metadata().find(kTokensKey);
    if (info == nullptr || info->bytes != total.size() * sizeof(double) || count == reader->metadata().end()) {
      return DataLoss("STATISTICS_INVALID", "{}: no sums of {} channels for {}", shard, cols, group);
    }
    std::vector<double> values(total.size());
    RETURN_IF_ERROR(reader->ReadBytes(*info, 0, std::as_writable_bytes(std::span(values))));
    for (size_t j = 0; j < total.size(); ++j) total[j] += values[j];
    tokens += std::atoll(count->second.c_str());
  }
  if (tokens <= 0) return DataLoss("STATISTICS_INVALID", "the statistics of {} count no tokens", group);
  for (double& value : total) value /= static_cast<double>(tokens);
  return total;
}

}  // namespace qamserve
