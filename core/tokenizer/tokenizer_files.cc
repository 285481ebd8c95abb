#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_config.h"

namespace qamserve {
namespace {

// Gemma's tokenizer.json, the largest known, has 33 MB.
constexpr uint64_t kMaxTokenizerBytes = uint64_t{256} << 20;
// Some configurations list every reserved token; they stay below 10 MB.
constexpr uint64_t kMaxConfigBytes = uint64_t{32} << 20;
constexpr uint64_t kMaxTemplateBytes = uint64_t{1} << 20;

}  // namespace

absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const FileSet& files) {
  if (files.Find("tokenizer.json") == nullptr) {
    if (const FileEntry* gguf_file = files.FindGguf(); gguf_file != nullptr) {
      ASSIGN_OR_RETURN(const std::unique_ptr<GgufReader> gguf, GgufReader::Open(*gguf_file));
      return TokenizerFilesFromGguf(*gguf);
    }
  }
  TokenizerFiles out;
  ASSIGN_OR_RETURN(out.tokenizer_json, files.ReadText("tokenizer.json", kMaxTokenizerBytes));
  if (files.Find("tokenizer_config.json") != nullptr) {
    ASSIGN_OR_RETURN(out.tokenizer_config_json, files.ReadText("tokenizer_config.json", kMaxConfigBytes));
  }
  if (files.Find("chat_template.jinja") != nullptr) {
    ASSIGN_OR_RETURN(out.chat_template, files.ReadText("chat_template.jinja", kMaxTemplateBytes));
    return out;
  }
  absl::StatusOr<TokenizerConfig> config = ParseTokenizerConfig(out.tokenizer_config_json);
  if (!config.ok()) return Annotate(config.status(), files.origin());
  out.chat_template = std::move(config->chat_template);
  return out;
}

}  // namespace qamserve
