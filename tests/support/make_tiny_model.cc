// Writes one of the tests' tiny models, for tools that are not C++. Usage: make_tiny_model ARCHITECTURE OUT [VARIANT]
// OUT is a folder, or a file that ends in .gguf. VARIANT: "rope-linear" or "rope-llama3".
#include <cstdio>
#include <string_view>

#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

void SetVariant(std::string_view variant, TinyModelOptions& options) {
  nlohmann::ordered_json scaling;
  if (variant == "rope-linear") scaling = {{"rope_type", "linear"}, {"factor", 4.0}};
  if (variant == "rope-llama3") {
    scaling = {{"rope_type", "llama3"},
               {"factor", 8.0},
               {"low_freq_factor", 1.0},
               {"high_freq_factor", 4.0},
               {"original_max_position_embeddings", 64}};
  }
  if (!scaling.is_null())
    options.edit_config = [scaling](nlohmann::ordered_json& json) { json["rope_scaling"] = scaling; };
}

int Main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: {} llama|mistral|qwen2|qwen3|gemma3 OUT [VARIANT]\n", argv[0]);
    return 2;
  }
  // Seven layers reach Gemma's global one, and a window of 16 is shorter than the texts that are compared.
  TinyModelOptions options{.num_layers = 7, .sliding_window = 16};
  for (const Architecture architecture : {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2,
                                          Architecture::kQwen3, Architecture::kGemma3}) {
    if (std::string_view(argv[1]) == ArchitectureName(architecture)) options.architecture = architecture;
  }
  if (argc > 3) SetVariant(argv[3], options);
  const std::string_view out = argv[2];
  const absl::Status status =
      out.ends_with(".gguf") ? WriteTinyGguf(options, argv[2]) : WriteTinyModel(options, argv[2]);
  if (!status.ok()) fmt::print(stderr, "{}\n", MessageOf(status));
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) { return qamserve::Main(argc, argv); }
