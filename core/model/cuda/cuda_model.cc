#include "core/model/cuda/cuda_model.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/codec/packing.h"
#include "core/kernels/cuda/forward/graph_cache.h"
#include "core/model/forward.h"

namespace qamserve {
namespace {

// Scores that are in memory at a time: 64 MiB, the queries of 256 tokens of 32 heads over 2048 keys.
constexpr int64_t kMostScores = 16 << 20;
// Logits that are computed at a time: 16 MiB for a vocabulary of 128 K.
constexpr int64_t kHeadRows = 32;
constexpr int64_t kFirstRopePositions = 2048;
// Steps of so few rows, decoding above all, are alike again and again.
constexpr int64_t kMostRowsRepeated = 64;
// Kernels of a layer in a graph: 21 of a quantized Llama, more with biases or several passes of attention.
constexpr int64_t kKernelsOfLayer = 32;
// Of one in a graph: its arguments, up to 0.5 KiB, and what the driver makes of them to start it.
constexpr int64_t kGraphKernelBytes = 2 << 10;
// All kernels have 5 MiB of code (sm_90), and the one with most local memory 8 MiB of that on an H200: 32 bytes for
// each thread that there is room for.
constexpr int64_t kKernelCodeBytes = 32 << 20;

// Bytes of what does not depend on the rows of a step alone.
struct StepSizes {
  int64_t logits = 0;
  int64_t scores = 0;
  int64_t step = 0;
  int64_t sample = 0;
  int64_t sampled = 0;
};

// Sizes of UploadStep and Sample at their most; see AddTiles for the tiles and their scores.
StepSizes SizesOf(const ModelConfig& config, const KvLayout& layout, const StepLimits& limits) {
  StepSizes out;
  out.logits = std::max(kHeadRows, limits.logits) * config.vocab_size * 4;
  const int64_t queries = limits.rows * config.num_heads, keys = limits.positions + 16;
  out.scores = std::max(kTileQueries * keys, std::min(kMostScores, queries * keys)) * 4;
  constexpr auto kTileBytes = static_cast<int64_t>(2 * sizeof(AttentionTile));  // of global and sliding layers
  const int64_t blocks = limits.logits * layout.BlocksFor(limits.positions);
  out.step = queries * kTileBytes + (4 * limits.rows + blocks) * 4 + 128;
  // The largest number of biases and everything that was said.
  const int64_t adjusted = std::min(config.vocab_size, limits.positions + 1024);
  const int64_t choice = static_cast<int64_t>(sizeof(SampleRow)) + config.vocab_size / 8 +
                         adjusted * static_cast<int64_t>(sizeof(LogitAdjustment)) + 64;
  out.sample = limits.logits * choice;
  out.sampled = limits.logits * static_cast<int64_t>(sizeof(SampleResult));
  return out;
}

// Positions whose angles are kept, where there are `kept` and those below `positions` are wanted.
int64_t RopePositions(int64_t kept, int64_t positions) {
  int64_t count = std::max(kFirstRopePositions, kept);
  while (count < positions) count *= 2;
  return count;
}

// Arrays one behind the other, each at a multiple of 16 bytes, so that they are copied in one piece.
class Pieces {
 public:
  template <typename T>
  int64_t Add(const std::vector<T>& from) {
    return Add(from.data(), static_cast<int64_t>(from.size()));
  }
  template <typename T>
  int64_t Add(const T* from, int64_t count) {
    const int64_t at = size(), bytes = count * static_cast<int64_t>(sizeof(T));
    bytes_.resize(bytes_.size() + static_cast<size_t>(Rounded(bytes)));
    if (bytes > 0) std::memcpy(bytes_.data() + at, from, static_cast<size_t>(bytes));
    return at;
  }
  const char* data() const { return bytes_.data(); }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  static int64_t Rounded(int64_t bytes) { return (bytes + 15) / 16 * 16; }

 private:
  std::vector<char> bytes_;
};

void Extend(std::span<const SequenceChunk> chunks) {
  for (const SequenceChunk& chunk : chunks) {
    chunk.cache->SetLength(chunk.cache->length() + static_cast<int64_t>(chunk.tokens.size()));
  }
}

bool Slides(const ModelConfig& config, size_t layer) {
  return !config.layer_slides.empty() && config.layer_slides[layer];
}

}  // namespace

struct CudaModel::OnDevice {
  int64_t rows = 0;
  const int32_t* tokens = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* tables = nullptr;
  const int32_t* blocks = nullptr;
  const int32_t* wanted = nullptr;
  const AttentionTile* global = nullptr;
  const AttentionTile* sliding = nullptr;
};

CudaModel::CudaModel(std::shared_ptr<const Model> model, std::unique_ptr<ForwardDevice> device, const KvLayout& layout)
    : model_(std::move(model)), device_(std::move(device)), layout_(layout) {}

absl::StatusOr<std::unique_ptr<CudaModel>> CudaModel::Create(std::shared_ptr<const Model> model,
                                                             std::unique_ptr<ForwardDevice> device,
                                                             const KvLayout& layout, int64_t blocks) {
  std::unique_ptr<CudaModel> out(new CudaModel(std::move(model), std::move(device), layout));
  ASSIGN_OR_RETURN(out->weights_, DeviceWeights::Upload(*out->model_, *out->device_));
  for (const DeviceLayer& layer : out->weights_.layers) {
    for (const DeviceGroup* group : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      if (!group->dense()) out->widest_input_ = std::max(out->widest_input_, PaddedCols(group->cols()));
    }
  }
  if (out->weights_.head.kind == DeviceLinear::Kind::kInt8) {
    out->widest_input_ = std::max(out->widest_input_, PaddedCols(out->weights_.head.cols));
  }
  if (const absl::Status status = out->Grow(out->kv_, blocks * layout.block_bytes()); !status.ok()) {
    return Annotate(status,
                    fmt::format("{}: taking {} blocks of keys and values of {} bytes each on {}, beside {} "
                                "bytes of weights",
                                out->model_->origin(), blocks, layout.block_bytes(), out->name(), out->weights_.bytes));
  }
  return out;
}

int64_t CudaModel::memory_bytes() const {
  int64_t bytes = weights_.bytes;
  for (const Buffer* buffer : {&kv_,         &x_,
                               &normed_,     &q_,
                               &k_,          &v_,
                               &attention_,  &projected_,
                               &gate_,       &up_,
                               &quantized_,  &scales_,
                               &scratch_,    &hidden_,
                               &logits_,     &step_,
                               &scores_,     &sample_,
                               &sampled_,    &cosines_,
                               &sines_,      &local_cosines_,
                               &local_sines_}) {
    bytes += buffer->bytes;
  }
  return bytes;
}

// ---- memory ----

absl::Status CudaModel::Grow(Buffer& buffer, int64_t bytes) {
  if (bytes <= buffer.bytes) return absl::OkStatus();
  buffer = {};  // first, since both may not fit
  ASSIGN_OR_RETURN(buffer.memory, device_->Allocate(bytes));
  buffer.bytes = bytes;
  ++generation_;
  return absl::OkStatus();
}

// For what grows a little with every token.
absl::Status CudaModel::GrowAmply(Buffer& buffer, int64_t bytes) {
  constexpr int64_t kLeast = 1 << 20;
  return bytes <= buffer.bytes ? absl::OkStatus() : Grow(buffer, std::max(kLeast, 2 * bytes));
}

absl::Status CudaModel::Reserve(const StepLimits& limits) {
  const absl::Status status = TakeMemory(limits);
  if (status.ok()) return status;
  return Annotate(status,
                  fmt::format("{}: taking memory on {} for steps of {} tokens at positions below {}, beside {} "
                              "bytes of weights and {} of keys and values",
                              model_->origin(), name(), limits.rows, limits.positions, weights_.bytes, kv_.bytes));
}

absl::Status CudaModel::TakeMemory(const StepLimits& limits) {
  const StepSizes sizes = SizesOf(model_->config(), layout_, limits);
  RETURN_IF_ERROR(ReserveRows(limits.rows));
  RETURN_IF_ERROR(ReserveRope(limits.positions));
  RETURN_IF_ERROR(Grow(logits_, sizes.logits));
  RETURN_IF_ERROR(Grow(scores_, sizes.scores));
  RETURN_IF_ERROR(Grow(step_, sizes.step));
  RETURN_IF_ERROR(Grow(sample_, sizes.sample));
  return Grow(sampled_, sizes.sampled);
}

// Steps differ by a few rows: not every one is to ask for memory.
int64_t CudaModel::ReservedRows(int64_t rows) { return std::max<int64_t>(16, rows + rows / 4); }

int64_t CudaModel::StepBytes(const ModelConfig& config, const KvLayout& layout, const StepLimits& limits,
                             int64_t widest_input, int64_t packed_scratch) {
  const StepSizes sizes = SizesOf(config, layout, limits);
  const int64_t rows = ReservedRows(limits.rows);
  const int64_t floats =
      4 * config.hidden_size + 2 * config.q_size() + 2 * config.kv_size() + 2 * config.intermediate_size;
  const int64_t inputs = std::max(rows, kHeadRows) * (2 * widest_input + 4);
  const int64_t angles = 4 * RopePositions(0, limits.positions) * (config.head_dim / 2) * 4;
  return rows * floats * 4 + inputs + packed_scratch + angles + sizes.logits + sizes.scores + sizes.step +
         sizes.sample + sizes.sampled;
}

int64_t CudaModel::DriverBytes(const ModelConfig& config) {
  return kKernelCodeBytes + kMostGraphs * config.num_layers * kKernelsOfLayer * kGraphKernelBytes;
}

absl::Status CudaModel::ReserveRows(int64_t rows) {
  if (rows <= reserved_rows_) return absl::OkStatus();
  const ModelConfig& config = model_->config();
  const int64_t more = ReservedRows(rows);
  reserved_rows_ = 0;
  const std::pair<Buffer*, int64_t> floats[] = {{&x_, config.hidden_size},
                                                {&normed_, config.hidden_size},
                                                {&q_, config.q_size()},
                                                {&k_, config.kv_size()},
                                                {&v_, config.kv_size()},
                                                {&attention_, config.q_size()},
                                                {&projected_, config.hidden_size},
                                                {&gate_, config.intermediate_size},
                                                {&up_, config.intermediate_size},
                                                {&hidden_, config.hidden_size}};
  for (const auto& [buffer, width] : floats) RETURN_IF_ERROR(Grow(*buffer, more * width * 4));
  const int64_t inputs = std::max(more, kHeadRows);
  RETURN_IF_ERROR(Grow(quantized_, inputs * widest_input_ * 2));
  RETURN_IF_ERROR(Grow(scales_, inputs * 4));
  RETURN_IF_ERROR(Grow(scratch_, device_->PackedScratchBytes(widest_input_, more)));
  reserved_rows_ = more;
  return absl::OkStatus();
}

// Cosines and sines of all positions below `positions`, as the CPU has them.
absl::Status CudaModel::ReserveRope(int64_t positions) {
  if (positions <= rope_positions_) return absl::OkStatus();
  const int64_t count = RopePositions(rope_positions_, positions);
  const RopeFrequencies& frequencies = model_->weights().rope;
  const auto half = static_cast<int64_t>(frequencies.global.size());
  std::array<std::vector<float>, 4> values;
  for (std::vector<float>& v : values) v.resize(static_cast<size_t>(count * half));
  for (int64_t p = 0; p < count; ++p) {
    RopeAngles(frequencies, p,
               {values[0].data() + p * half, values[1].data() + p * half, values[2].data() + p * half,
                values[3].data() + p * half});
  }
  rope_positions_ = 0;
  Buffer* const buffers[] = {&cosines_, &sines_, &local_cosines_, &local_sines_};
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t bytes = count * half * 4;
    RETURN_IF_ERROR(Grow(*buffers[i], bytes));
    RETURN_IF_ERROR(device_->Upload(buffers[i]->memory.get(), values[i].data(), bytes));
  }
  rope_positions_ = count;
  return absl::OkStatus();
}

absl::StatusOr<CudaModel::OnDevice> CudaModel::UploadStep(const StepPlan& plan) {
  Pieces pieces;
  const int64_t tokens = pieces.Add(plan.tokens), positions = pieces.Add(plan.positions);
  const int64_t tables = pieces.Add(plan.tables), wanted = pieces.Add(plan.wanted);
  const int64_t global = pieces.Add(plan.global.tiles), sliding = pieces.Add(plan.sliding.tiles);
  // Last, since their number differs from step to step: all else is where it was in a step of as many rows.
  const int64_t blocks = pieces.Add(plan.blocks);
  RETURN_IF_ERROR(GrowAmply(step_, pieces.size()));
  RETURN_IF_ERROR(device_->Upload(step_.memory.get(), pieces.data(), pieces.size()));
  RETURN_IF_ERROR(GrowAmply(scores_, plan.scores * 4));
  const auto* const base = step_.as<const char>();
  const auto ints = [&](int64_t at) { return reinterpret_cast<const int32_t*>(base + at); };
  const auto tiles = [&](int64_t at) { return reinterpret_cast<const AttentionTile*>(base + at); };
  return OnDevice{plan.rows(),  ints(tokens), ints(positions), ints(tables),
                  ints(blocks), ints(wanted), tiles(global),   tiles(sliding)};
}

KvView CudaModel::LayerOf(size_t layer) const {
  KvView view;
  view.data = kv_.as<uint8_t>() + layout_.TileOffset(static_cast<int64_t>(layer), 0);
  view.block_bytes = layout_.block_bytes();
  view.tile_bytes = layout_.TileOffset(0, 1);
  view.block_tokens = static_cast<int32_t>(layout_.block_tokens());
  view.head_dim = static_cast<int32_t>(layout_.head_dim());
  view.int8 = layout_.type() == KvType::kInt8;
  return view;
}

// ---- linear layers ----

absl::Status CudaModel::ApplyDense(const DeviceGroup& group, const Source& source, int64_t rows,
                                   std::span<float* const> outputs) {
  const int64_t n = group.cols();
  const float* x = source.x;
  if (source.norm != nullptr) {
    const auto eps = static_cast<float>(model_->config().rms_eps);
    RETURN_IF_ERROR(device_->Norm({source.x, nullptr, source.norm, eps, n, rows, normed_.as<float>()}));
    x = normed_.as<float>();
  }
  if (source.up != nullptr) {
    RETURN_IF_ERROR(device_->Gate({source.x, source.up, model_->config().gelu, n, rows}));
  }
  for (size_t i = 0; i < group.layers.size(); ++i) {
    const DeviceLinear& layer = group.layers[i];
    RETURN_IF_ERROR(device_->DenseMatmul({x, n, layer.dense, outputs[i], layer.rows, rows, layer.rows, n}));
  }
  return absl::OkStatus();
}

absl::Status CudaModel::ApplyPacked(const DeviceGroup& group, const Source& source, int64_t rows,
                                    std::span<float* const> outputs) {
  InputArgs input;
  input.x = source.x;
  input.n = group.cols();
  input.rows = rows;
  input.norm = source.norm;
  input.eps = static_cast<float>(model_->config().rms_eps);
  input.up = source.up;
  input.gelu = model_->config().gelu;
  input.inverse_scale = group.inverse_scale;
  input.rotation = group.rotation;
  input.padded = PaddedCols(input.n);
  input.scale = scales_.as<float>();
  if (group.int8()) {
    input.q8 = quantized_.as<int8_t>();
  } else {
    input.q = quantized_.as<int16_t>();
  }
  RETURN_IF_ERROR(device_->Input(input));
  for (size_t i = 0; i < group.layers.size(); ++i) {
    const DeviceLinear& layer = group.layers[i];
    const int64_t strips = StripsDown(layer.rows);
    if (group.int8()) {
      const Int8Input x{input.q8, input.padded, input.scale, rows};
      RETURN_IF_ERROR(device_->Int8Matmul({layer.int8, x, outputs[i], layer.rows, 0, strips}));
    } else {
      const PackedInput x{input.q, input.padded, input.scale, rows};
      RETURN_IF_ERROR(device_->PackedMatmul({layer.packed, x, outputs[i], layer.rows, 0, strips, scratch_.as<void>()}));
    }
  }
  return absl::OkStatus();
}

absl::Status CudaModel::Apply(const DeviceGroup& group, const Source& source, int64_t rows,
                              std::span<float* const> outputs) {
  RETURN_IF_ERROR(group.dense() ? ApplyDense(group, source, rows, outputs) : ApplyPacked(group, source, rows, outputs));
  for (size_t i = 0; i < group.layers.size(); ++i) {
    const DeviceLinear& layer = group.layers[i];
    if (layer.bias != nullptr) RETURN_IF_ERROR(device_->Bias({outputs[i], layer.bias, layer.rows, rows}));
  }
  return absl::OkStatus();
}

// ---- a step ----

absl::Status CudaModel::Embed(const OnDevice& step) {
  const ModelConfig& config = model_->config();
  EmbedArgs args;
  args.tokens = step.tokens;
  args.rows = step.rows;
  args.n = config.hidden_size;
  args.dense = weights_.embeddings.dense;
  args.int8 = weights_.embeddings.int8;
  args.rotation = weights_.embeddings.rotation;
  args.scale = static_cast<float>(config.embedding_scale);
  args.out = x_.as<float>();
  return device_->Embed(args);
}

absl::Status CudaModel::Attend(size_t layer, const StepPlan& plan, const OnDevice& step) {
  const ModelConfig& config = model_->config();
  const bool slides = Slides(config, layer) && config.sliding_window > 0;
  const AttentionPlan& attention = slides ? plan.sliding : plan.global;
  AttendArgs args;
  args.q = q_.as<float>();
  args.out = attention_.as<float>();
  args.heads = static_cast<int32_t>(config.num_heads);
  args.kv_heads = static_cast<int32_t>(config.num_kv_heads);
  args.window = slides ? static_cast<int32_t>(config.sliding_window) : 0;
  args.scale = static_cast<float>(config.attention_scale);
  args.blocks = step.blocks;
  args.kv = LayerOf(layer);
  args.scores = scores_.as<float>();
  for (const AttentionPass& pass : attention.passes) {
    args.tiles = (slides ? step.sliding : step.global) + pass.first_tile;
    args.tile_count = pass.tiles;
    args.most_keys = pass.most_keys;
    RETURN_IF_ERROR(device_->Attend(args));
  }
  return absl::OkStatus();
}

absl::Status CudaModel::RunLayer(size_t layer, const StepPlan& plan, const OnDevice& step) {
  const ModelConfig& config = model_->config();
  const DeviceLayer& w = weights_.layers[layer];
  const int64_t rows = step.rows;
  const auto eps = static_cast<float>(config.rms_eps);
  float* const x = x_.as<float>();
  float* const projected[] = {projected_.as<float>()};

  float* const qkv[] = {q_.as<float>(), k_.as<float>(), v_.as<float>()};
  RETURN_IF_ERROR(Apply(w.qkv, {x, w.attention_norm}, rows, qkv));
  const bool local = Slides(config, layer);
  HeadsArgs heads;
  heads.q = q_.as<float>();
  heads.k = k_.as<float>();
  heads.v = v_.as<float>();
  heads.rows = rows;
  heads.heads = static_cast<int32_t>(config.num_heads);
  heads.kv_heads = static_cast<int32_t>(config.num_kv_heads);
  heads.q_norm = w.q_norm;
  heads.k_norm = w.k_norm;
  heads.eps = eps;
  heads.cosines = (local ? local_cosines_ : cosines_).as<float>();
  heads.sines = (local ? local_sines_ : sines_).as<float>();
  heads.positions = step.positions;
  heads.tables = step.tables;
  heads.blocks = step.blocks;
  heads.kv = LayerOf(layer);
  RETURN_IF_ERROR(device_->Heads(heads));
  RETURN_IF_ERROR(Attend(layer, plan, step));
  RETURN_IF_ERROR(Apply(w.o, {attention_.as<float>()}, rows, projected));
  RETURN_IF_ERROR(device_->Residual({x, projected[0], w.attention_out_norm, eps, config.hidden_size, rows}));

  float* const gate_up[] = {gate_.as<float>(), up_.as<float>()};
  RETURN_IF_ERROR(Apply(w.gate_up, {x, w.mlp_norm}, rows, gate_up));
  RETURN_IF_ERROR(Apply(w.down, {gate_up[0], nullptr, gate_up[1]}, rows, projected));
  return device_->Residual({x, projected[0], w.mlp_out_norm, eps, config.hidden_size, rows});
}

absl::Status CudaModel::RunLayers(const StepPlan& plan, const OnDevice& step) {
  RETURN_IF_ERROR(Embed(step));
  for (size_t layer = 0; layer < weights_.layers.size(); ++layer) RETURN_IF_ERROR(RunLayer(layer, plan, step));
  return device_->Norm({x_.as<float>(), step.wanted, weights_.final_norm, static_cast<float>(model_->config().rms_eps),
                        model_->config().hidden_size, static_cast<int64_t>(plan.wanted.size()), hidden_.as<float>()});
}

// Leaves the hidden states that are asked for in hidden_. Caches have not grown yet.
absl::Status CudaModel::QueueStep(std::span<const SequenceChunk> chunks) {
  const ModelConfig& config = model_->config();
  held_.clear();
  RETURN_IF_ERROR(CheckChunks(config, chunks));
  const StepPlan plan(config, chunks, kMostScores);
  if (plan.rows() == 0) return absl::OkStatus();
  RETURN_IF_ERROR(ReserveRows(plan.rows()));
  RETURN_IF_ERROR(ReserveRope(int64_t{*std::max_element(plan.positions.begin(), plan.positions.end())} + 1));
  ASSIGN_OR_RETURN(const OnDevice step, UploadStep(plan));
  if (plan.rows() <= kMostRowsRepeated) {
    const std::vector<int64_t> key = plan.Key(generation_);
    RETURN_IF_ERROR(device_->Repeat(key, [&] { return RunLayers(plan, step); }));
  } else {
    RETURN_IF_ERROR(RunLayers(plan, step));
  }
  held_ = plan.wanted;
  return absl::OkStatus();
}

absl::Status CudaModel::Forward(std::span<const SequenceChunk> chunks) {
  RETURN_IF_ERROR(QueueStep(chunks));
  Extend(chunks);
  return absl::OkStatus();
}

absl::Status CudaModel::ForwardHidden(std::span<const SequenceChunk> chunks, std::vector<float>& hidden) {
  hidden.clear();
  RETURN_IF_ERROR(QueueStep(chunks));
  hidden.resize(held_.size() * static_cast<size_t>(model_->config().hidden_size));
  held_.clear();  // they are the caller's
  if (hidden.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(device_->Download(hidden.data(), hidden_.as<void>(), static_cast<int64_t>(hidden.size()) * 4));
  Extend(chunks);
  return absl::OkStatus();
}

// ---- logits ----

absl::Status CudaModel::RunHead(const float* hidden, int64_t rows) {
  const DeviceLinear& head = weights_.head;
  const int64_t width = model_->config().hidden_size, vocab = model_->config().vocab_size;
  auto* const y = logits_.as<float>();
  if (head.kind != DeviceLinear::Kind::kInt8) {
    return device_->DenseMatmul({hidden, width, head.dense, y, vocab, rows, vocab, width});
  }
  InputArgs input;
  input.x = hidden;
  input.n = width;
  input.rows = rows;
  input.rotation = head.rotation;
  input.q = quantized_.as<int16_t>();
  input.padded = PaddedCols(width);
  input.scale = scales_.as<float>();
  RETURN_IF_ERROR(device_->Input(input));
  const PackedInput x{input.q, input.padded, input.scale, rows};
  return device_->Int8WideMatmul({head.int8, x, y, vocab, 0, StripsDown(vocab)});
}

absl::Status CudaModel::PutLogits(const float* hidden, int64_t n) {
  const int64_t width = model_->config().hidden_size;
  RETURN_IF_ERROR(ReserveRows(n));
  RETURN_IF_ERROR(Grow(logits_, n * model_->config().vocab_size * 4));
  held_.clear();  // hidden_ has others from now on
  RETURN_IF_ERROR(device_->Upload(hidden_.as<void>(), hidden, n * width * 4));
  if (n > kMostRowsRepeated) return RunHead(hidden_.as<float>(), n);
  return device_->Repeat({generation_, n}, [&] { return RunHead(hidden_.as<float>(), n); });
}

// Those of `rows` in normed_: again out of x_, where the last layer has left all rows.
absl::Status CudaModel::ChooseHidden(std::span<const int32_t> rows) {
  std::vector<int32_t> of;
  of.reserve(rows.size());
  for (const int32_t row : rows) of.push_back(held_[static_cast<size_t>(row)]);
  const auto n = static_cast<int64_t>(rows.size());
  RETURN_IF_ERROR(GrowAmply(sample_, n * 4));  // which nobody needs before the next Sample
  RETURN_IF_ERROR(device_->Upload(sample_.as<void>(), of.data(), n * 4));
  return device_->Norm({x_.as<float>(), sample_.as<const int32_t>(), weights_.final_norm,
                        static_cast<float>(model_->config().rms_eps), model_->config().hidden_size, n,
                        normed_.as<float>()});
}

absl::Status CudaModel::KeepLogitsOf(std::span<const int32_t> rows) {
  const auto n = static_cast<int64_t>(rows.size());
  RETURN_IF_ERROR(CheckHiddenRows(rows, static_cast<int64_t>(held_.size())));
  if (n == 0) return absl::OkStatus();
  RETURN_IF_ERROR(Grow(logits_, n * model_->config().vocab_size * 4));
  const bool first = AreFirst(rows);
  if (!first) RETURN_IF_ERROR(ChooseHidden(rows));
  const float* const hidden = (first ? hidden_ : normed_).as<const float>();
  if (n > kMostRowsRepeated) return RunHead(hidden, n);
  // Of PutLogits' key, and one that no step has.
  if (first) return device_->Repeat({generation_, n}, [&] { return RunHead(hidden, n); });
  return device_->Repeat({generation_, n, 0}, [&] { return RunHead(hidden, n); });
}

absl::Status CudaModel::Head(const float* hidden, int64_t n, float* logits) {
  const int64_t width = model_->config().hidden_size, vocab = model_->config().vocab_size;
  for (int64_t first = 0; first < n; first += kHeadRows) {
    const int64_t rows = std::min(kHeadRows, n - first);
    RETURN_IF_ERROR(PutLogits(hidden + first * width, rows));
    RETURN_IF_ERROR(device_->Download(logits + first * vocab, logits_.as<void>(), rows * vocab * 4));
  }
  return absl::OkStatus();
}

absl::Status CudaModel::KeepLogits(const float* hidden, int64_t n) { return PutLogits(hidden, n); }

absl::Status CudaModel::Sample(std::span<const SampleRow> rows, std::span<SampleResult> results) {
  const auto count = static_cast<int64_t>(rows.size());
  const int64_t mask_words = (model_->config().vocab_size + 63) / 64;
  Pieces pieces;
  std::vector<int64_t> adjustments, masks;  // where they are in the pieces
  adjustments.reserve(rows.size());
  masks.reserve(rows.size());
  for (const SampleRow& row : rows) {
    adjustments.push_back(pieces.Add(row.adjustments, row.adjustment_count));
    masks.push_back(row.allowed == nullptr ? -1 : pieces.Add(row.allowed, mask_words));
  }
  constexpr auto kRowBytes = static_cast<int64_t>(sizeof(SampleRow));
  RETURN_IF_ERROR(GrowAmply(sample_, pieces.size() + Pieces::Rounded(count * kRowBytes)));
  RETURN_IF_ERROR(GrowAmply(sampled_, count * static_cast<int64_t>(sizeof(SampleResult))));
  auto* const base = sample_.as<char>();
  std::vector<SampleRow> there(rows.begin(), rows.end());
  for (size_t i = 0; i < there.size(); ++i) {
    there[i].adjustments = reinterpret_cast<LogitAdjustment*>(base + adjustments[i]);
    there[i].allowed = masks[i] < 0 ? nullptr : reinterpret_cast<const uint64_t*>(base + masks[i]);
  }
  const int64_t at = pieces.Add(there);
  RETURN_IF_ERROR(device_->Upload(base, pieces.data(), pieces.size()));
  RETURN_IF_ERROR(device_->Sample({logits_.as<float>(), model_->config().vocab_size,
                                   reinterpret_cast<const SampleRow*>(base + at), sampled_.as<SampleResult>(), count}));
  RETURN_IF_ERROR(
      device_->Download(results.data(), sampled_.as<void>(), count * static_cast<int64_t>(sizeof(SampleResult))));
  for (size_t i = 0; i < rows.size(); ++i) {
    if (results[i].outcome != SampleOutcome::kUndecided) continue;
    RETURN_IF_ERROR(SampleHere(rows[i], there[i].adjustments, results[i]));
  }
  return absl::OkStatus();
}

// Decides what the device has not: from its adjusted logits, with all else that it has found out.
absl::Status CudaModel::SampleHere(const SampleRow& row, const LogitAdjustment* on_device, SampleResult& result) {
  const int64_t vocab = model_->config().vocab_size;
  std::vector<float> logits(static_cast<size_t>(vocab));
  RETURN_IF_ERROR(device_->Download(logits.data(), logits_.as<float>() + row.row * vocab, vocab * 4));
  RETURN_IF_ERROR(device_->Download(row.adjustments, on_device,
                                    row.adjustment_count * static_cast<int64_t>(sizeof(LogitAdjustment))));
  const SampleResult chosen = SampleAdjusted(BestKernels(), logits, row, host_scratch_);
  result.outcome = chosen.outcome;
  result.token = chosen.token;
  const LogitAdjustment* const adjustment = FindAdjustment(row, chosen.token);
  result.own = adjustment != nullptr ? adjustment->own : chosen.own;
  return absl::OkStatus();
}

}  // namespace qamserve
