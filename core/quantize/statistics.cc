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

#include "core/model/stream.h"
#include "core/quantize/device.h"
#include "core/quantize/input_sums.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

constexpr char kSumSquaresSuffix[] = ".sum_squares";
constexpr char kMaxAbsSuffix[] = ".max_abs";
constexpr char kOuterSuffix[] = ".outer";
constexpr char kTokensKey[] = "tokens";

static_assert(std::endian::native == std::endian::little);

// One group's sums, where they are made.
struct GroupSums {
  InputSums sums;
  std::unique_ptr<DeviceInputSums> device;  // null: on the CPU
};

// Sums of the block that is running, and the file that finished blocks go to.
class StatisticsWriter {
 public:
  static absl::StatusOr<StatisticsWriter> Create(const Checkpoint& checkpoint, bool outer, int64_t tokens,
                                                 QuantizeDevice* device, const std::string& path) {
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
    return StatisticsWriter(std::move(file), outer, device);
  }

  void Add(const LinearGroup& group, const float* x, int64_t tokens, ThreadPool& pool) {
    // The first group again, under another name: the model is at its next block.
    if (!sums_.empty() && order_.front() != group.name && sums_.size() == LinearGroupNames(0).size() &&
        !sums_.contains(group.name)) {
      Flush();
    }
    if (!status_.ok()) return;
    if (!sums_.contains(group.name)) status_ = Begin(group);
    if (!status_.ok()) return;
    GroupSums& group_sums = sums_[group.name];
    if (group_sums.device != nullptr) {
      status_ = group_sums.device->Add(x, tokens);
    } else {
      AddInputs(x, tokens, group.cols(), outer_, pool, group_sums.sums);
    }
  }

  const absl::Status& status() const { return status_; }

  absl::Status Commit() {
    Flush();
    RETURN_IF_ERROR(status_);
    return file_.Commit();
  }

 private:
  StatisticsWriter(SafetensorsWriter file, bool outer, QuantizeDevice* device)
      : file_(std::move(file)), outer_(outer), device_(device) {}

  absl::Status Begin(const LinearGroup& group) {
    order_.push_back(group.name);
    GroupSums& group_sums = sums_[group.name];
    if (device_ == nullptr) return absl::OkStatus();
    ASSIGN_OR_RETURN(group_sums.device, device_->MakeInputSums(group.cols(), outer_));
    return absl::OkStatus();
  }

  absl::Status Write(GroupSums& group_sums) {
    if (group_sums.device != nullptr) {
      ASSIGN_OR_RETURN(group_sums.sums, group_sums.device->Read());
    }
    RETURN_IF_ERROR(file_.Append(std::as_bytes(std::span(group_sums.sums.squares))));
    RETURN_IF_ERROR(file_.Append(std::as_bytes(std::span(group_sums.sums.max_abs))));
    return outer_ ? file_.Append(std::as_bytes(std::span(group_sums.sums.outer))) : absl::OkStatus();
  }

  void Flush() {
    for (const std::string& group : order_) {
      if (status_.ok()) status_ = Write(sums_[group]);
    }
    order_.clear();
    sums_.clear();
  }

  SafetensorsWriter file_;
  bool outer_;
  QuantizeDevice* device_;
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
                            const std::string& out_path, QuantizeDevice* device) {
  int64_t tokens = 0;
  for (const auto& window : windows) tokens += static_cast<int64_t>(window.size());
  ASSIGN_OR_RETURN(StatisticsWriter writer,
                   StatisticsWriter::Create(checkpoint, spec.error_feedback, tokens, device, out_path));
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
