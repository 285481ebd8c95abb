// From checkpoint to artifact, cut into tasks that can run anywhere and in any order. Start here for core/quantize.
//   calibrate shard -> statistics file      (forward pass of the unquantized model over some windows of text)
//   quantize tensor -> packed tensor file   (needs the sum of the statistics; independent of other tensors)
//   assemble        -> artifact folder      (all packed tensors, kept tensors, tokenizer, config)
// Every file that a task writes is a pure function of (checkpoint, spec, tokens): same bytes for any number of threads
// and workers, and any instruction set. All functions are thread-safe. Memory is bounded by one block's weights.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/base/progress.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/codec/rotation.h"
#include "core/codec/tensor_format.h"
#include "core/model/checkpoint.h"

namespace qamserve {

// Names the method and the layout in artifacts and job keys; changes when the same input would give other bytes.
inline constexpr char kCodecVersion[] = "qamw-5";
// In estimates of memory: code, libraries, allocator.
inline constexpr int64_t kProcessBytes = int64_t{64} << 20;

// Another rate for some tensors.
struct RateRule {
  std::string filter;  // pattern of fnmatch(3) for names of the plan: "*.down_proj", "model.layers.3.self_attn.q_proj"
  double bpw = 0;
  bool operator==(const RateRule&) const = default;
};

struct QuantizeSpec {
  Codec codec = Codec::kJoint;
  // Bits of codes a weight: 2.5 to 6 in half bits (int8: 8; full: 16). Of a trellis, tensors of 6 have the joint codec.
  double bpw = 5.5;
  // Where several filters match, the last one counts.
  std::vector<RateRule> rates;
  bool channel_scale = true;  // by what inputs and columns weigh; with error feedback, columns of equal energy
  // Columns make up for the rounding errors of those before them (core/quantize/feedback.h); needs the full statistics
  // of the inputs.
  bool error_feedback = false;
  // Of the input embedding and, if it is not tied, the output head: 16 keeps them as they are; 8 rotates each row and
  // rounds it to 127ths of its largest value, which raised SmolLM2's KL at 5.5 bits by 3.5 % (7.8 % without rotation)
  // and took 22 % off the file.
  int32_t embedding_bits = 16;
  RotationKind rotation = RotationKind::kFull;
  uint64_t seed = 1;  // of the rotation's signs
  int32_t calibration_windows = 8;
  int32_t window_tokens = 1024;
};

// INVALID_ARGUMENT (BPW_RANGE, ...) names field and limit; CODEC_OPTION an option that codec full excludes (all but
// rotation none, no channel scale, no error feedback, no rates, embeddings in 16 bits).
absl::Status ValidateQuantizeSpec(const QuantizeSpec& spec);
// Canonical JSON: the same spec always gives the same text. Part of the job key and of the report.
std::string QuantizeSpecToJson(const QuantizeSpec& spec);
// Reads what QuantizeSpecToJson wrote; DATA_LOSS (SPEC_INVALID) for anything else.
absl::StatusOr<QuantizeSpec> QuantizeSpecFromJson(const std::string& json);
// The rates a codec has, ascending.
std::vector<double> RatesOf(Codec codec);
// Mean squared error a weight on a unit Gaussian; 0 where that is not known (int8, full).
double IdealDistortion(Codec codec, double bpw);

// Whether the quantize stage reads calibration statistics.
inline bool NeedsStatistics(const QuantizeSpec& spec) { return spec.channel_scale || spec.error_feedback; }

// What will be done, known before anything is read but headers.
struct QuantizePlan {
  struct Tensor {
    std::string name;   // "model.layers.0.self_attn.q_proj"
    std::string group;  // tensors that share an input share a group: "model.layers.0.self_attn.qkv"
    int64_t rows = 0;   // out
    int64_t cols = 0;   // in
    TensorFormat format;
    int64_t packed_bytes = 0;  // codes and norms as stored; the floats of codec full
  };
  std::vector<Tensor> tensors;
  // That are quantized, too, when the artifact is assembled; in no group, and not in `weights` and `bpw`.
  std::vector<Tensor> embeddings;
  int64_t weights = 0;            // to be quantized
  int64_t artifact_bytes = 0;     // of model.safetensors, exact
  int64_t peak_memory_bytes = 0;  // estimate, at `threads` threads; of workers with and without a device the larger
  double bpw = 0;                 // with norms and scales
};
// Errors: INVALID_ARGUMENT: ROTATION_DIMENSION if an input dimension cannot be factored (names tensor and dimension),
// FILTER_MATCHES_NOTHING, BPW_RANGE.
absl::StatusOr<QuantizePlan> PlanQuantization(const Checkpoint& checkpoint, const QuantizeSpec& spec, int threads);

class QuantizeDevice;

// Runs windows of `window_tokens` tokens each through the unquantized model, a block at a time, and writes the sums of
// squares of every group's inputs to `out_path`; with error feedback also the sums of their outer products. A device
// adds up in place of the CPU; the bytes are the same.
absl::Status CalibrateShard(const Checkpoint& checkpoint, const QuantizeSpec& spec,
                            const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool, ProgressFn progress,
                            const std::string& out_path, QuantizeDevice* device = nullptr);

struct TensorOutcome {
  std::string name;
  int64_t rows = 0, cols = 0;
  double bpw = 0;                   // codes + norms + the tensor's share of scales
  double distortion = 0;            // mean squared error a weight over the row's mean square, in the rotated basis
  double worst_row_distortion = 0;  // of a single row; rows without rotation differ much
  double weighted_error = 0;        // channel-weighted squared error over channel-weighted energy; 0 without statistics
  // Expected squared error of the layer's outputs for one token, summed over outputs: by the full statistics with error
  // feedback, by the channels' mean squares without; 0 without statistics.
  double output_error = 0;
  std::string type;  // "BF16" or "F16" of codec full; empty where there are codes
};

class CoderTables;
struct GroupStatistics;
struct PackedTensor;
struct StripOutcome;

// Quantizes the tensors of one plan, in any order and by any number of threads at once. Immutable; thread-safe.
class Quantizer {
 public:
  // Tensors that `device` encodes are quantized by it, others and all without one by the CPU; the bytes are the same.
  // Errors as PlanQuantization.
  static absl::StatusOr<std::shared_ptr<const Quantizer>> Create(std::shared_ptr<const Checkpoint> checkpoint,
                                                                 const QuantizeSpec& spec,
                                                                 std::shared_ptr<QuantizeDevice> device = nullptr);
  ~Quantizer();

  const QuantizePlan& plan() const { return plan_; }
  // Quantizes tensor `index` of the plan and writes it. `statistics` are the files of all calibration shards, in shard
  // order (empty unless NeedsStatistics). Memory: the packed tensor, a strip of rows for each thread and, with error
  // feedback, up to 16 bytes for each pair of input channels; with a device, a panel of 256 MiB of rows in place of
  // strips and 4 bytes for each pair. TENSOR_RANGE names a tensor that its type cannot hold.
  absl::StatusOr<TensorOutcome> QuantizeTensor(size_t index, const std::vector<std::string>& statistics,
                                               ThreadPool& pool, ProgressFn progress,
                                               const std::string& out_path) const;

 private:
  Quantizer(std::shared_ptr<const Checkpoint> checkpoint, const QuantizeSpec& spec,
            std::shared_ptr<QuantizeDevice> device);

  std::shared_ptr<const Checkpoint> checkpoint_;
  QuantizeSpec spec_;
  std::shared_ptr<QuantizeDevice> device_;  // null: the CPU
  QuantizePlan plan_;
  std::map<std::pair<Codec, int>, std::unique_ptr<const CoderTables>> tables_;
  std::map<int64_t, std::unique_ptr<const Rotation>> rotations_;  // by input dimension

  // Channel scales belong to a group, whose tensors are mostly quantized one after the other: the last few are kept, by
  // group and statistics.
  absl::StatusOr<std::vector<float>> ScaleOf(const QuantizePlan::Tensor& tensor,
                                             const std::vector<std::string>& statistics,
                                             const GroupStatistics& inputs) const;
  // Codes and norms of a tensor whose scale is made. Takes inputs.outer.
  absl::StatusOr<StripOutcome> EncodeTensor(const QuantizePlan::Tensor& tensor, GroupStatistics& inputs,
                                            ThreadPool& pool, ProgressFn progress, PackedTensor& packed) const;

  mutable std::mutex mutex_;
  mutable std::deque<std::pair<std::string, std::vector<float>>> scales_;  // guarded by mutex_; newest last
};

struct ArtifactInputs {
  std::vector<std::string> packed;      // one file for each tensor of the plan, in plan order
  std::vector<TensorOutcome> outcomes;  // likewise
  std::string display_name;
  std::string checkpoint_digest;
  std::string calibration_source;          // "text", "built-in text", "own samples" or "none"
  bool calibration_chat_template = false;  // the text was shaped by the model's chat template
  std::string calibration_digest;          // SHA-256 of the token ids
  // Of the finished folder (DigestFiles); goes into the report.
  std::map<std::string, std::string> file_digests;
};
// Writes config.json, model.safetensors, the tokenizer files and generation_config.json into the new folder `out_dir`.
// Then checks it: every tensor of the plan is there, and sampled rows of each dequantize to within the distortion
// that was measured (FAILED_PRECONDITION, GATE_COVERAGE or GATE_RECONSTRUCTION).
absl::Status AssembleArtifact(const Checkpoint& checkpoint, const QuantizeSpec& spec, const QuantizePlan& plan,
                              const ArtifactInputs& inputs, ProgressFn progress, const std::string& out_dir);

// SHA-256 of every file directly in a folder, by name.
absl::StatusOr<std::map<std::string, std::string>> DigestFiles(const std::string& dir);

}  // namespace qamserve
