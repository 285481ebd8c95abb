// What an artifact is on disk: constants and the `quantization_config` of config.json. The whole format, with a worked
// example in bytes, is docs/artifact_format.md; the writer is core/quantize/assemble.cc, the reader
// core/model/artifact.cc.
//
// model.safetensors holds, for every quantized linear layer NAME (without ".weight") of input group GROUP:
//   NAME.codes          U8  [bytes]  packed codes (core/codec/packing.h), starting at a multiple of 128 in the file
//   NAME.row_norm       F16 [rows]
//   GROUP.channel_scale F16 [cols]   only with channel scales
// or, of codec "full",
//   NAME.weight         F16 or BF16 [rows, cols]
// and every other tensor of the model under its Hugging Face name; embeddings in 8 bits have codes and norms, too.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace qamserve {

inline constexpr char kWeightsFile[] = "model.safetensors";
inline constexpr char kConfigFile[] = "config.json";
inline constexpr char kReportFile[] = "report.json";
inline constexpr char kModelCardFile[] = "README.md";
inline constexpr char kCodesSuffix[] = ".codes";
inline constexpr char kRowNormSuffix[] = ".row_norm";
inline constexpr char kChannelScaleSuffix[] = ".channel_scale";
inline constexpr uint64_t kCodesAlignment = 128;

inline constexpr char kQuantMethod[] = "qamw";
// 2 brought other codecs than joint, and tensors with a format of their own; 1 is read as before.
inline constexpr int kArtifactVersion = 2;

// config.json's "quantization_config".
struct QuantizationConfig {
  int version = kArtifactVersion;
  // Of the tensors that `tensors` does not name.
  struct Format {
    std::string codec = "joint";  // as core/codec/tensor_format.h names it; checked by the reader of the weights
    int pair_bits = 11;
  };
  Format format;
  std::map<std::string, Format> tensors;  // by name without ".weight"
  std::string rotation = "full";          // as core/codec/rotation.h names it
  uint64_t rotation_seed = 1;
  bool channel_scale = true;
};

// True if config.json names this method. Text that is not JSON, or nests deeper than 64 levels, is false.
bool IsArtifactConfig(std::string_view config_json);
// UNIMPLEMENTED (ARTIFACT_VERSION) for a version or codec from the future, INVALID_ARGUMENT (CONFIG_FIELD) for a field
// out of its limits.
absl::StatusOr<QuantizationConfig> ReadQuantizationConfig(std::string_view config_json, std::string_view origin);
// `config_json` with "quantization_config" put in (or replaced); keys are sorted, indented by two.
absl::StatusOr<std::string> WithQuantizationConfig(std::string_view config_json, const QuantizationConfig& config);

}  // namespace qamserve
