#include "core/tokenizer/gguf_pre_tokenizers.h"

#include <algorithm>
#include <iterator>

namespace qamserve {
namespace {

// Case is spelled out ('[sS]) instead of (?i:...), under which 's would also match U+017F (long s).
constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35 =
    R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepseek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kDigits = R"(\p{N}+)";
constexpr std::string_view kDigitsToThree = R"(\p{N}{1,3})";
constexpr std::string_view kThreeAsciiDigits = "[0-9][0-9][0-9]";
constexpr std::string_view kDefaultPunctuation = R"([\p{P}\$\+<=>\^~\|]+)";
constexpr std::string_view kFalconPunctuation = R"([\p{P}\$\+<=>\^~\|`]+)";
constexpr std::string_view kNewline = "[\r\n]";
constexpr std::string_view kSpacedLetters = R"(\s?\p{L}+)";
constexpr std::string_view kSpacedPunctuation = R"(\s?\p{P}+)";
constexpr std::string_view kCjkAndKana = "[一-龥\u3040-ゟ゠-ヿ]+";
constexpr std::string_view kCjkAndHangul = "[一-龥ࠀ-一가-\uD7FF]+";

struct Family {
  std::string_view patterns[5];
  bool ignore_merges;
  bool add_bos;
  std::string_view names[12];
};

constexpr Family kFamilies[] = {
    {{kDigit, kGpt2},
     false,
     false,
     {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"}},
    {{kGpt2},
     false,
     false,
     {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat", "a.x-4.0",
      "mellum"}},
    {{kLlama3}, true, true, {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}},
    {{kLlama3}, false, false, {"dbrx", "smaug-bpe", "chatglm-bpe"}},
    {{kLlama3}, true, false, {"glm4", "glm5"}},
    {{kQwen2}, false, false, {"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kormo", "solar-open"}},
    {{kQwen35}, false, false, {"qwen35"}},
    {{kTekken}, true, true, {"tekken"}},
    {{kDefaultPunctuation, kGpt2, kDigits, kThreeAsciiDigits}, false, false, {"default"}},
    {{kFalconPunctuation, kGpt2, kThreeAsciiDigits}, false, false, {"falcon"}},
    {{kNewline, kSpacedLetters, kSpacedPunctuation, kCjkAndHangul, kDigit}, false, false, {"deepseek-coder"}},
    {{kDigitsToThree, kCjkAndKana, kDeepseek3}, false, false, {"deepseek-v3", "hunyuan-dense", "joyai-llm"}},
};

}  // namespace

std::vector<std::string_view> GgufPreTokenizerNames() {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) names.push_back(family.names[0]);
  return names;
}

Json PlainByteLevelJson() {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
}

Json PreTokenizerJson(const GgufPreTokenizer& pre) {
  Json steps = Json::array();
  for (const std::string_view pattern : pre.patterns) {
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back(PlainByteLevelJson());
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

absl::StatusOr<GgufPreTokenizer> FindGgufPreTokenizer(std::string_view name) {
  for (const Family& family : kFamilies) {
    if (name.empty() || std::find(std::begin(family.names), std::end(family.names), name) == std::end(family.names))
      continue;
    GgufPreTokenizer pre{{}, family.ignore_merges, family.add_bos};
    for (const std::string_view pattern : family.patterns) {
      if (!pattern.empty()) pre.patterns.push_back(pattern);
    }
    return pre;
  }
  return Unimplemented("TOKENIZER_UNSUPPORTED", "tokenizer.ggml.pre \"{}\" is not a pre-tokenizer that is known", name);
}

}  // namespace qamserve
