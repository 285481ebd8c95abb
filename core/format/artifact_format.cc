#include "core/format/artifact_format.h"

#include "core/format/json_text.h"

namespace qamserve {
namespace {

using nlohmann::json;

// The object "quantization_config", or null.
json FindSection(std::string_view config_json) {
  const json config = ParseJson(config_json);
  if (!config.is_object()) return nullptr;
  const auto it = config.find("quantization_config");
  return it != config.end() && it->is_object() ? *it : json(nullptr);
}

template <typename T>
absl::StatusOr<T> Field(const json& section, const char* key, std::string_view origin) {
  try {
    return section.at(key).get<T>();
  } catch (const json::exception& e) {
    return InvalidArgument("CONFIG_FIELD", "{}: quantization_config.{}: {}", origin, key, e.what());
  }
}

absl::StatusOr<QuantizationConfig::Format> ReadFormat(const json& section, std::string_view origin) {
  if (!section.is_object()) {
    return InvalidArgument("CONFIG_FIELD", "{}: quantization_config.tensors: a format is not an object", origin);
  }
  QuantizationConfig::Format format;
  ASSIGN_OR_RETURN(format.codec, Field<std::string>(section, "codec", origin));
  ASSIGN_OR_RETURN(format.pair_bits, Field<int>(section, "pair_bits", origin));
  if (format.pair_bits < 5 || format.pair_bits > 32) {
    return InvalidArgument("CONFIG_FIELD", "{}: quantization_config.pair_bits is {}; the limits are 5 and 32", origin,
                           format.pair_bits);
  }
  return format;
}

}  // namespace

bool IsArtifactConfig(std::string_view config_json) {
  const json section = FindSection(config_json);
  return section.is_object() && section.value("quant_method", json()) == json(kQuantMethod);
}

absl::StatusOr<QuantizationConfig> ReadQuantizationConfig(std::string_view config_json, std::string_view origin) {
  const json section = FindSection(config_json);
  if (!section.is_object()) return InvalidArgument("CONFIG_FIELD", "{} has no quantization_config", origin);
  QuantizationConfig out;
  ASSIGN_OR_RETURN(const auto method, Field<std::string>(section, "quant_method", origin));
  ASSIGN_OR_RETURN(out.version, Field<int>(section, "version", origin));
  if (method != kQuantMethod || out.version < 1 || out.version > kArtifactVersion) {
    return Unimplemented("ARTIFACT_VERSION", "{}: quant_method {}, version {}; this build reads {} up to version {}",
                         origin, method, out.version, kQuantMethod, kArtifactVersion);
  }
  ASSIGN_OR_RETURN(out.format, ReadFormat(section, origin));
  const json tensors = section.value("tensors", json::object());
  if (!tensors.is_object()) {
    return InvalidArgument("CONFIG_FIELD", "{}: quantization_config.tensors is not an object", origin);
  }
  for (const auto& [name, format] : tensors.items()) {
    ASSIGN_OR_RETURN(out.tensors[name], ReadFormat(format, origin));
  }
  ASSIGN_OR_RETURN(out.rotation, Field<std::string>(section, "rotation", origin));
  ASSIGN_OR_RETURN(out.rotation_seed, Field<uint64_t>(section, "rotation_seed", origin));
  ASSIGN_OR_RETURN(out.channel_scale, Field<bool>(section, "channel_scale", origin));
  return out;
}

absl::StatusOr<std::string> WithQuantizationConfig(std::string_view config_json, const QuantizationConfig& config) {
  json root = ParseJson(config_json);
  if (!root.is_object()) {
    return InvalidArgument("CONFIG_FIELD", "config.json is not a JSON object, or nests deeper than {} levels",
                           kMaxJsonDepth);
  }
  json& section = root["quantization_config"];
  section = {{"quant_method", kQuantMethod},          {"version", config.version},
             {"codec", config.format.codec},          {"bits", config.format.pair_bits / 2.0},
             {"pair_bits", config.format.pair_bits},  {"rotation", config.rotation},
             {"rotation_seed", config.rotation_seed}, {"channel_scale", config.channel_scale}};
  for (const auto& [name, format] : config.tensors) {
    section["tensors"][name] = {{"codec", format.codec}, {"pair_bits", format.pair_bits}};
  }
  return root.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace qamserve
