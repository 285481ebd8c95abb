#include "core/model/model.h"

#include <algorithm>

#include "core/model/artifact.h"
#include "core/model/checkpoint.h"
#include "core/model/forward.h"
#include "core/model/parameters.h"
#include "core/model/weights.h"

namespace qamserve {

struct Model::Impl {
  ModelConfig config;
  std::string origin;
  const Kernels* kernels = &BestKernels();
  std::unique_ptr<ArtifactReader> artifact;  // null for a checkpoint; packed layers point into it
  Linear embeddings;                         // [vocab][hidden]
  Linear head_matrix;                        // empty if tied
  std::vector<float> final_norm;
  std::vector<LayerWeights> layers;
  RopeFrequencies rope;

  const Linear& head() const { return config.tie_embeddings ? embeddings : head_matrix; }
};

namespace {

template <typename Visit>
void ForEachLinear(const std::vector<LayerWeights>& layers, Visit visit) {
  for (const LayerWeights& layer : layers) {
    for (const LinearGroup* group : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      for (const Linear& linear : group->layers) visit(linear);
    }
  }
}

void Embed(const Linear& embeddings, float scale, int32_t token, const Kernels& kernels, float* out) {
  ReadRow(embeddings, token, kernels, out);
  if (scale != 1.0f) {
    for (int64_t i = 0; i < embeddings.cols; ++i) out[i] *= scale;
  }
}

}  // namespace

absl::Status CheckChunks(const ModelConfig& config, std::span<const SequenceChunk> chunks) {
  for (const SequenceChunk& chunk : chunks) {
    for (int32_t token : chunk.tokens) {
      if (token < 0 || token >= config.vocab_size) {
        return InvalidArgument("PROMPT_TOKEN", "token {} is not below the vocabulary size {}", token,
                               config.vocab_size);
      }
    }
    const int64_t needed = chunk.cache->length() + static_cast<int64_t>(chunk.tokens.size());
    if (needed > chunk.cache->capacity()) {
      return OutOfRange("CONTEXT_FULL", "{} tokens do not fit a cache of {}", needed, chunk.cache->capacity());
    }
  }
  return absl::OkStatus();
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;
Workspace::Workspace() : buffers_(std::make_unique<ForwardBuffers>()) {}
Workspace::Workspace(Workspace&&) noexcept = default;
Workspace::~Workspace() = default;

absl::StatusOr<std::shared_ptr<const Model>> Model::Load(const FileSet& files) {
  auto impl = std::make_unique<Impl>();
  impl->origin = files.origin();
  bool is_artifact = false;
  if (files.Find(kConfigFile) != nullptr) {
    ASSIGN_OR_RETURN(const std::string config_json, files.ReadText(kConfigFile, 16 << 20));
    is_artifact = IsArtifactConfig(config_json);
  }
  if (is_artifact) {
    ASSIGN_OR_RETURN(impl->artifact, ArtifactReader::Open(files));
    const ArtifactReader& artifact = *impl->artifact;
    impl->config = artifact.config();
    const ModelConfig& c = impl->config;
    ASSIGN_OR_RETURN(impl->embeddings, artifact.LoadEmbedding(kInputEmbedding));
    ASSIGN_OR_RETURN(impl->final_norm, artifact.LoadVector("model.norm.weight"));
    if (!c.tie_embeddings) {
      ASSIGN_OR_RETURN(impl->head_matrix, artifact.LoadEmbedding(kOutputHead));
    }
    for (int64_t i = 0; i < c.num_layers; ++i) {
      ASSIGN_OR_RETURN(LayerWeights layer, artifact.LoadLayer(i));
      impl->layers.push_back(std::move(layer));
    }
  } else {
    ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(files));
    impl->config = checkpoint->config();
    RETURN_IF_ERROR(CheckKernelDimensions(impl->config, files.origin()));
    ASSIGN_OR_RETURN(impl->embeddings, LoadDense(*checkpoint, "model.embed_tokens.weight"));
    impl->final_norm.resize(static_cast<size_t>(impl->config.hidden_size));
    RETURN_IF_ERROR(checkpoint->ReadRows("model.norm.weight", 0, 1, impl->final_norm));
    if (!impl->config.tie_embeddings) {
      ASSIGN_OR_RETURN(impl->head_matrix, LoadDense(*checkpoint, "lm_head.weight"));
    }
    for (int64_t i = 0; i < impl->config.num_layers; ++i) {
      ASSIGN_OR_RETURN(LayerWeights layer, LoadDenseLayer(*checkpoint, i));
      impl->layers.push_back(std::move(layer));
    }
  }
  impl->rope = MakeRopeFrequencies(impl->config);
  return std::shared_ptr<const Model>(new Model(std::move(impl)));
}

const ModelConfig& Model::config() const { return impl_->config; }
const std::string& Model::origin() const { return impl_->origin; }
bool Model::is_quantized() const { return impl_->artifact != nullptr; }
std::string Model::kernel_name() const { return std::string(impl_->kernels->name); }

int64_t Model::weight_bytes() const {
  int64_t bytes =
      impl_->embeddings.WeightBytes() + (impl_->config.tie_embeddings ? 0 : impl_->head_matrix.WeightBytes());
  ForEachLinear(impl_->layers, [&](const Linear& linear) { bytes += linear.WeightBytes(); });
  return bytes;
}

int64_t Model::bytes_per_token() const {
  int64_t bytes = impl_->head().WeightBytes();
  ForEachLinear(impl_->layers, [&](const Linear& linear) { bytes += linear.WeightBytes(); });
  return bytes;
}

absl::Status Model::ForwardHidden(std::span<const SequenceChunk> chunks, Workspace& workspace, ThreadPool& pool,
                                  std::vector<float>& hidden) const {
  RETURN_IF_ERROR(CheckChunks(impl_->config, chunks));
  ForwardBuffers& buffers = *workspace.buffers_;
  ForwardContext context{impl_->config, *impl_->kernels, pool, buffers};
  const int64_t n = impl_->config.hidden_size;
  std::vector<BatchSpan> spans;
  int64_t rows = 0;
  for (const SequenceChunk& chunk : chunks) {
    spans.push_back({rows, static_cast<int64_t>(chunk.tokens.size()), chunk.cache->length()});
    rows += spans.back().tokens;
  }
  buffers.Reserve(impl_->config, rows);
  for (size_t i = 0; i < chunks.size(); ++i) {
    for (size_t t = 0; t < chunks[i].tokens.size(); ++t) {
      Embed(impl_->embeddings, static_cast<float>(impl_->config.embedding_scale), chunks[i].tokens[t], *impl_->kernels,
            buffers.x.data() + (spans[i].first_row + static_cast<int64_t>(t)) * n);
    }
  }
  PrepareRope(impl_->rope, spans, context);
  std::vector<LayerKv> caches;
  for (int64_t layer = 0; layer < impl_->config.num_layers; ++layer) {
    caches.clear();
    for (const SequenceChunk& chunk : chunks) caches.emplace_back(*chunk.cache, layer);
    RunLayer(impl_->layers[static_cast<size_t>(layer)], layer, spans, caches, rows, context);
    if (workspace.drop_weights_ && impl_->artifact != nullptr) impl_->artifact->DropPages();
  }
  hidden.clear();
  for (size_t i = 0; i < chunks.size(); ++i) {
    const BatchSpan& span = spans[i];
    chunks[i].cache->SetLength(span.position + span.tokens);
    for (int64_t t = chunks[i].all_logits ? 0 : std::max<int64_t>(0, span.tokens - 1); t < span.tokens; ++t) {
      hidden.resize(hidden.size() + static_cast<size_t>(n));
      impl_->kernels->rms_norm(buffers.x.data() + (span.first_row + t) * n, impl_->final_norm.data(),
                               static_cast<float>(impl_->config.rms_eps), n, hidden.data() + hidden.size() - n);
    }
  }
  return absl::OkStatus();
}

const Linear& Model::head() const { return impl_->head(); }

ModelWeights Model::weights() const {
  return {impl_->embeddings, impl_->head(), impl_->final_norm, impl_->layers, impl_->rope};
}

void Model::Head(const float* hidden, int64_t n, ThreadPool& pool, float* logits) const {
  ApplyHead(impl_->head(), hidden, n, *impl_->kernels, pool, logits);
}

absl::Status Model::Forward(std::span<const SequenceChunk> chunks, Workspace& workspace, ThreadPool& pool,
                            std::vector<float>& logits) const {
  std::vector<float> hidden;
  RETURN_IF_ERROR(ForwardHidden(chunks, workspace, pool, hidden));
  const int64_t positions = static_cast<int64_t>(hidden.size()) / impl_->config.hidden_size;
  logits.resize(static_cast<size_t>(positions * impl_->config.vocab_size));
  Head(hidden.data(), positions, pool, logits.data());
  return absl::OkStatus();
}

}  // namespace qamserve
