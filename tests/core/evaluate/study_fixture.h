// Studies with made-up figures that behave like measured ones: KL falls by a factor of 4 a bit, and follows perplexity.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/evaluate/study.h"

namespace qamserve {

inline StudyRow RowOf(const std::string& model, Codec codec, double bpw, double kl, int layers = 3) {
  StudyRow row;
  row.model = model;
  row.checkpoint = "digest of " + model;
  row.spec.codec = codec;
  row.spec.bpw = bpw;
  row.method = MethodName(row.spec);
  row.bpw = bpw + 0.023;
  row.artifact_bytes = 100000000;
  row.quality = {.windows = 8,
                 .window_tokens = 1024,
                 .scored_tokens = 8184,
                 .base_perplexity = 20,
                 .quantized_perplexity = 20 * (1 + kl),
                 .perplexity_change = kl,
                 .perplexity_change_stderr = kl / 20,
                 .kl_mean = kl,
                 .kl_stderr = kl / 40,
                 .kl_ci95_low = 0.95 * kl,
                 .kl_ci95_high = 1.05 * kl,
                 .top1_agreement = 0.9,
                 .text_source = "text",
                 .text_digest = "digest of the text",
                 .kernels = kKernelsVersion};
  for (int layer = 0; layer < layers; ++layer) {
    for (const char* name : {"self_attn.q_proj", "mlp.up_proj"}) {
      row.tensors.push_back({.name = "model.layers." + std::to_string(layer) + "." + name,
                             .rows = 64,
                             .cols = 32,
                             .bpw = row.bpw,
                             .distortion = std::exp2(-2 * bpw) * (1.5 + 0.1 * layer),
                             .worst_row_distortion = std::exp2(-2 * bpw) * 3,
                             .weighted_error = std::exp2(-2 * bpw),
                             .output_error = 0.25 * kl * (layer + 1)});
      row.output_error += row.tensors.back().output_error;
    }
  }
  row.ideal_distortion = 1.4 * std::exp2(-2 * bpw);
  row.predicted_output_error = 0.9 * row.output_error;
  row.predicted_kl = 0.8 * kl;
  row.quantize_seconds = 12.5;
  return row;
}

// Two models, four methods, three rates.
inline Study StudyOfTwoModels() {
  Study study{.display_name = "Two models", .rows = {}};
  for (const auto& [model, factor] : {std::pair("Small 135M", 1.0), std::pair("Large 1.7B", 0.4)}) {
    for (const auto& [codec, loss] : {std::pair(Codec::kJoint, 1.0), std::pair(Codec::kPolar, 1.3),
                                      std::pair(Codec::kScalar, 1.5), std::pair(Codec::kTrellis, 0.7)}) {
      for (const double bpw : {3.0, 4.0, 5.5}) {
        study.rows.push_back(RowOf(model, codec, bpw, 25 * factor * loss * std::exp2(-2 * bpw), 30));
      }
    }
  }
  return study;
}

}  // namespace qamserve
