#include "core/model/forward.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/model/attention.h"

namespace qamserve {
namespace {

constexpr double kPi = 3.14159265358979323846;

// Rows of work that one call of the pool takes in the cheapest element-wise stages; a step of few rows stays on the
// caller, since waking a thread costs more. Both grains are estimates, not measured.
constexpr int64_t kRowGrain = 16;
// The same where a row costs several times as much: rotary embeddings, activations of the MLP.
constexpr int64_t kSlowRowGrain = 4;

// The frequency scaling of Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between
// blended. Source: the model's reference code, as in Hugging Face's "llama3" rope type.
double ScaleLlama3(double frequency, const RopeScaling& s) {
  const double wavelength = 2 * kPi / frequency;
  const double context = static_cast<double>(s.original_context);
  if (wavelength < context / s.high_freq_factor) return frequency;
  if (wavelength > context / s.low_freq_factor) return frequency / s.factor;
  const double blend = (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - blend) * frequency / s.factor + blend * frequency;
}

void NormRows(const float* x, const std::vector<float>& weight, int64_t rows, float* out, ForwardContext& c) {
  const int64_t n = c.config.hidden_size;
  c.pool.ParallelFor(rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      c.kernels.rms_norm(x + r * n, weight.data(), static_cast<float>(c.config.rms_eps), n, out + r * n);
    }
  });
}

// x += projected, after the sandwich norm if there is one.
void AddResidual(const std::vector<float>& norm, int64_t rows, ForwardContext& c) {
  ForwardBuffers& b = c.buffers;
  const int64_t n = c.config.hidden_size;
  if (!norm.empty()) NormRows(b.projected.data(), norm, rows, b.projected.data(), c);
  c.pool.ParallelFor(rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * n; i < end * n; ++i) b.x[static_cast<size_t>(i)] += b.projected[static_cast<size_t>(i)];
  });
}

void RotateHead(float* head, const float* cosines, const float* sines, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosines[i] - b * sines[i];
    head[i + half] = b * cosines[i] + a * sines[i];
  }
}

// Norms (where the model has them) and rotates the heads of q and k.
void FinishQueriesAndKeys(const LayerWeights& w, bool slides, int64_t rows, ForwardContext& c) {
  ForwardBuffers& b = c.buffers;
  const ModelConfig& config = c.config;
  const int64_t d = config.head_dim, half = d / 2;
  const float* cosines = slides ? b.local_cosines.data() : b.cosines.data();
  const float* sines = slides ? b.local_sines.data() : b.sines.data();
  auto finish = [&](float* heads, int64_t count, const std::vector<float>& norm, int64_t row) {
    for (int64_t h = 0; h < count; ++h) {
      float* head = heads + h * d;
      if (!norm.empty()) c.kernels.rms_norm(head, norm.data(), static_cast<float>(config.rms_eps), d, head);
      RotateHead(head, cosines + row * half, sines + row * half, half);
    }
  };
  c.pool.ParallelFor(rows, kSlowRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      finish(b.q.data() + r * config.q_size(), config.num_heads, w.q_norm, r);
      finish(b.k.data() + r * config.kv_size(), config.num_kv_heads, w.k_norm, r);
    }
  });
}

void Apply(const LinearGroup& group, const std::vector<float>& x, int64_t rows, std::span<const OutputRows> outputs,
           ForwardContext& c) {
  if (c.observer != nullptr) (*c.observer)(group, x.data(), rows);
  ApplyGroup(group, x.data(), group.cols(), rows, outputs, c.kernels, c.pool, c.buffers.activations);
}

}  // namespace

RopeFrequencies MakeRopeFrequencies(const ModelConfig& config) {
  RopeFrequencies out;
  const int64_t half = config.head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
    double global = std::pow(config.rope_theta, exponent);
    if (config.rope_scaling.kind == RopeScaling::Kind::kLinear) global /= config.rope_scaling.factor;
    if (config.rope_scaling.kind == RopeScaling::Kind::kLlama3) global = ScaleLlama3(global, config.rope_scaling);
    out.global.push_back(global);
    // Only Gemma 3 rotates its sliding layers differently; elsewhere a sliding layer is like any other.
    out.local.push_back(config.architecture == Architecture::kGemma3 ? std::pow(config.rope_theta_local, exponent)
                                                                     : global);
  }
  return out;
}

void RopeAngles(const RopeFrequencies& frequencies, int64_t position, const RopeRow& row) {
  const auto at = static_cast<double>(position);
  for (size_t i = 0; i < frequencies.global.size(); ++i) {
    const double frequency = frequencies.global[i], local = frequencies.local[i];
    row.cosines[i] = static_cast<float>(std::cos(at * frequency));
    row.sines[i] = static_cast<float>(std::sin(at * frequency));
    row.local_cosines[i] = local == frequency ? row.cosines[i] : static_cast<float>(std::cos(at * local));
    row.local_sines[i] = local == frequency ? row.sines[i] : static_cast<float>(std::sin(at * local));
  }
}

void ForwardBuffers::Reserve(const ModelConfig& config, int64_t rows) {
  auto grow = [rows](std::vector<float>& v, int64_t n) {
    if (static_cast<int64_t>(v.size()) < rows * n) v.resize(static_cast<size_t>(rows * n));
  };
  for (std::vector<float>* v : {&x, &normed, &projected}) grow(*v, config.hidden_size);
  for (std::vector<float>* v : {&q, &attention}) grow(*v, config.q_size());
  for (std::vector<float>* v : {&k, &this->v}) grow(*v, config.kv_size());
  for (std::vector<float>* v : {&gate, &up}) grow(*v, config.intermediate_size);
  for (std::vector<float>* v : {&cosines, &sines, &local_cosines, &local_sines}) grow(*v, config.head_dim / 2);
}

void PrepareRope(const RopeFrequencies& frequencies, std::span<const BatchSpan> spans, ForwardContext& c) {
  const auto half = static_cast<int64_t>(frequencies.global.size());
  ForwardBuffers& b = c.buffers;
  for (const BatchSpan& span : spans) {
    c.pool.ParallelFor(span.tokens, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t at = (span.first_row + t) * half;
        RopeAngles(
            frequencies, span.position + t,
            {b.cosines.data() + at, b.sines.data() + at, b.local_cosines.data() + at, b.local_sines.data() + at});
      }
    });
  }
}

void RunLayer(const LayerWeights& w, int64_t layer, std::span<const BatchSpan> spans, std::span<const LayerKv> caches,
              int64_t rows, ForwardContext& c) {
  ForwardBuffers& b = c.buffers;
  const ModelConfig& config = c.config;
  const bool slides = !config.layer_slides.empty() && config.layer_slides[static_cast<size_t>(layer)];

  NormRows(b.x.data(), w.attention_norm, rows, b.normed.data(), c);
  const OutputRows qkv[] = {
      {b.q.data(), config.q_size()}, {b.k.data(), config.kv_size()}, {b.v.data(), config.kv_size()}};
  Apply(w.qkv, b.normed, rows, qkv, c);
  FinishQueriesAndKeys(w, slides, rows, c);
  for (size_t i = 0; i < spans.size(); ++i) {
    AppendKeysAndValues(config, b.k.data() + spans[i].first_row * config.kv_size(),
                        b.v.data() + spans[i].first_row * config.kv_size(), spans[i].tokens, spans[i].position,
                        caches[i], c.kernels);
  }
  Attend(config, slides ? config.sliding_window : 0, spans, caches, b.q.data(), b.attention.data(), c.kernels, c.pool);
  const OutputRows projected[] = {{b.projected.data(), config.hidden_size}};
  Apply(w.o, b.attention, rows, projected, c);
  AddResidual(w.attention_out_norm, rows, c);

  NormRows(b.x.data(), w.mlp_norm, rows, b.normed.data(), c);
  const OutputRows gate_up[] = {{b.gate.data(), config.intermediate_size}, {b.up.data(), config.intermediate_size}};
  Apply(w.gate_up, b.normed, rows, gate_up, c);
  auto* activate = config.gelu ? c.kernels.gelu_mul : c.kernels.silu_mul;
  const int64_t n = config.intermediate_size;
  c.pool.ParallelFor(rows, kSlowRowGrain, [&](int64_t begin, int64_t end) {
    activate(b.gate.data() + begin * n, b.up.data() + begin * n, (end - begin) * n);
  });
  Apply(w.down, b.gate, rows, projected, c);
  AddResidual(w.mlp_out_norm, rows, c);
}

}  // namespace qamserve
