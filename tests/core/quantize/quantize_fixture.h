// All stages of a quantize job on a tiny model, every method, and damage to what lies between the stages.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/quantize/device.h"
#include "core/quantize/quantize.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {

inline absl::Status NoProgress(double) { return absl::OkStatus(); }

inline std::vector<std::vector<int32_t>> Windows(int count, int tokens, int64_t vocab) {
  Rng rng(17);
  std::vector<std::vector<int32_t>> windows(static_cast<size_t>(count));
  for (auto& window : windows) {
    for (int t = 0; t < tokens; ++t)
      window.push_back(static_cast<int32_t>(rng.NextU64() % static_cast<uint64_t>(vocab)));
  }
  return windows;
}

// All stages; a test may damage the packed files before they are assembled.
struct Pipeline {
  TempFolder folder;
  TinyModelOptions model;
  QuantizeSpec spec;
  int threads = 1;
  int window_tokens = 32;  // of the two windows of calibration
  std::shared_ptr<QuantizeDevice> device;
  std::shared_ptr<const Checkpoint> checkpoint;
  QuantizePlan plan;
  ArtifactInputs inputs;

  absl::Status Prepare() {
    RETURN_IF_ERROR(WriteTinyModel(model, folder / "model"));
    ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(folder / "model"));
    ASSIGN_OR_RETURN(checkpoint, Checkpoint::Open(files));
    ASSIGN_OR_RETURN(plan, PlanQuantization(*checkpoint, spec, threads));
    ThreadPool pool(threads);
    std::vector<std::string> statistics;
    if (NeedsStatistics(spec)) {
      statistics.push_back(folder / "statistics");
      RETURN_IF_ERROR(CalibrateShard(*checkpoint, spec, Windows(2, window_tokens, model.vocab_size), pool, NoProgress,
                                     statistics[0], device.get()));
    }
    ASSIGN_OR_RETURN(const auto quantizer, Quantizer::Create(checkpoint, spec, device));
    for (size_t i = 0; i < plan.tensors.size(); ++i) {
      inputs.packed.push_back(folder / ("packed" + std::to_string(i)));
      ASSIGN_OR_RETURN(TensorOutcome outcome,
                       quantizer->QuantizeTensor(i, statistics, pool, NoProgress, inputs.packed.back()));
      inputs.outcomes.push_back(std::move(outcome));
    }
    inputs.display_name = "tiny";
    return absl::OkStatus();
  }
  absl::Status Assemble() { return AssembleArtifact(*checkpoint, spec, plan, inputs, NoProgress, folder / "artifact"); }
};

inline std::string DigestWith(int threads, QuantizeSpec spec, std::shared_ptr<QuantizeDevice> device = nullptr) {
  Pipeline p;
  p.threads = threads;
  p.device = std::move(device);
  p.spec = spec;
  if (absl::Status status = p.Prepare(); !status.ok()) return status.ToString();
  if (absl::Status status = p.Assemble(); !status.ok()) return status.ToString();
  return *Sha256OfFile(p.folder / "artifact/model.safetensors");
}

// Every way to code a tensor.
inline std::vector<QuantizeSpec> Methods() {
  std::vector<QuantizeSpec> methods;
  for (Codec codec : {Codec::kJoint, Codec::kTrellis}) {
    for (bool scale : {false, true}) {
      for (bool feedback : {false, true}) {
        methods.push_back({.codec = codec, .bpw = 4, .channel_scale = scale, .error_feedback = feedback});
      }
    }
  }
  for (Codec codec : {Codec::kPolar, Codec::kScalar, Codec::kUniform}) {
    methods.push_back({.codec = codec, .bpw = 4, .channel_scale = false, .rotation = RotationKind::kNone});
    methods.push_back({.codec = codec, .bpw = 4, .error_feedback = true});
  }
  methods.push_back({.bpw = 4, .embedding_bits = 8});
  methods.push_back({.bpw = 4, .rates = {{"*.down_proj", 5.5}, {"model.layers.1.self_attn.*", 3}}});
  methods.push_back({.codec = Codec::kInt8, .bpw = 8, .rotation = RotationKind::kNone});
  methods.push_back({.codec = Codec::kInt8, .bpw = 8, .channel_scale = false});
  methods.push_back({.codec = Codec::kInt8, .bpw = 8, .error_feedback = true});
  methods.push_back({.codec = Codec::kFull, .bpw = 16, .channel_scale = false, .rotation = RotationKind::kNone});
  return methods;
}

// Sets a part of a packed file's data, from and to given as fractions of it.
inline void Overwrite(const std::string& path, double from, double to, char value) {
  std::string bytes = *ReadFile(path, 1 << 30);
  const size_t header = 8 + *reinterpret_cast<const uint64_t*>(bytes.data());
  const auto data = static_cast<double>(bytes.size() - header);
  for (auto i = static_cast<size_t>(from * data); i < static_cast<size_t>(to * data); ++i) bytes[header + i] = value;
  ASSERT_EQ(WriteFileAtomically(path, bytes), absl::OkStatus());
}

}  // namespace qamserve
