// What the fuzzers run: every place where bytes that somebody sent are first looked at. A target takes any bytes and
// returns; it ends the process if something that must hold does not. The same functions are run by libFuzzer
// (fuzzer_main.cc) and, over the seeds and small changes of them, as an ordinary test (replay_test.cc).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

struct FuzzTarget {
  std::string_view name;
  void (*run)(std::string_view input);
  // Small inputs that get far, made on the spot.
  absl::StatusOr<std::vector<std::string>> (*seeds)();
};

// gguf, safetensors, tokenizer, chat_template, artifact, quantize_spec, constraint.
std::span<const FuzzTarget> FuzzTargets();

// A file: metadata, tensor table, and what is made of them: config and tokenizer.
void FuzzGguf(std::string_view input);
// A file; or, if it begins with '{', a shard index.
void FuzzSafetensors(std::string_view input);
// tokenizer.json, NUL, tokenizer_config.json, NUL, a text.
void FuzzTokenizer(std::string_view input);
// A chat template, NUL, the content of a message.
void FuzzChatTemplate(std::string_view input);
// config.json, NUL, model.safetensors.
void FuzzArtifact(std::string_view input);
// The JSON of a QuantizeSpec.
void FuzzQuantizeSpec(std::string_view input);
// The number of a ConstraintKind, then its text.
void FuzzConstraint(std::string_view input);

absl::StatusOr<std::vector<std::string>> GgufSeeds();
absl::StatusOr<std::vector<std::string>> SafetensorsSeeds();
absl::StatusOr<std::vector<std::string>> TokenizerSeeds();
absl::StatusOr<std::vector<std::string>> ChatTemplateSeeds();
absl::StatusOr<std::vector<std::string>> ArtifactSeeds();
absl::StatusOr<std::vector<std::string>> QuantizeSpecSeeds();
absl::StatusOr<std::vector<std::string>> ConstraintSeeds();

}  // namespace qamserve
