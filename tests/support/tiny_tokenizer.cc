#include "tests/support/tiny_tokenizer.h"

#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

namespace qamserve {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSpecialTokens[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};

// Byte-level BPE writes printable bytes as themselves and the others as code points from U+0100 on.
std::string ByteSymbol(int byte) {
  const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

std::string Symbols(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += ByteSymbol(static_cast<unsigned char>(c));
  return out;
}

// Frequent pieces of English, each made of two earlier ones.
constexpr std::pair<std::string_view, std::string_view> kEnglish[] = {
    {" ", "t"}, {"h", "e"}, {" ", "a"},  {" t", "he"}, {"i", "n"},  {"r", "e"},  {"o", "n"}, {"e", "r"},
    {" ", "s"}, {"a", "t"}, {" ", "w"},  {"o", "u"},   {"n", "d"},  {" ", "o"},  {"i", "t"}, {"e", "s"},
    {"o", "r"}, {"a", "n"}, {"in", "g"}, {" ", "b"},   {"e", "d"},  {" ", "c"},  {"i", "s"}, {" a", "nd"},
    {"l", "l"}, {"a", "r"}, {" ", "h"},  {" t", "o"},  {" o", "f"}, {" ", "in"}, {" ", "m"}, {"e", "n"},
};

}  // namespace

TinyVocabulary MakeTinyVocabulary(int64_t size) {
  TinyVocabulary vocabulary;
  const auto wanted = static_cast<size_t>(size);
  vocabulary.tokens.assign(std::begin(kSpecialTokens), std::end(kSpecialTokens));
  for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.push_back(ByteSymbol(byte));
  std::set<std::string> known(vocabulary.tokens.begin(), vocabulary.tokens.end());
  const auto add = [&](const std::string& left, const std::string& right) {
    if (vocabulary.tokens.size() >= wanted || !known.insert(left + right).second) return;
    vocabulary.merges.emplace_back(left, right);
    vocabulary.tokens.push_back(left + right);
  };
  for (const auto& [left, right] : kEnglish) add(Symbols(left), Symbols(right));
  // Large vocabularies are filled with pairs of bytes, letters first.
  for (int i = 0; i < 256 * 256 && vocabulary.tokens.size() < wanted; ++i) {
    add(ByteSymbol((i / 256 + 'a') % 256), ByteSymbol((i % 256 + 'a') % 256));
  }
  return vocabulary;
}

std::string TinyTokenizerJson(const TinyVocabulary& vocabulary) {
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = Json::array();
  for (int32_t id = 0; id < kTinySpecials; ++id) {
    json["added_tokens"].push_back({{"id", id},
                                    {"content", kSpecialTokens[id]},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
  }
  json["normalizer"] = nullptr;
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  json["pre_tokenizer"] = byte_level;
  json["post_processor"] = nullptr;
  json["decoder"] = byte_level;
  Json& model = json["model"];
  model = {{"type", "BPE"},
           {"dropout", nullptr},
           {"unk_token", nullptr},
           {"continuing_subword_prefix", nullptr},
           {"end_of_word_suffix", nullptr},
           {"fuse_unk", false},
           {"byte_fallback", false},
           {"vocab", Json::object()},
           {"merges", Json::array()}};
  // A plain map keeps this linear: ordered_json looks through all keys at each insertion.
  nlohmann::json vocab = nlohmann::json::object();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) vocab[vocabulary.tokens[id]] = id;
  model["vocab"] = vocab;
  for (const auto& [left, right] : vocabulary.merges) model["merges"].push_back({left, right});
  return json.dump(1);
}

std::string TinyChatTemplate() {
  return "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
         "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
}

std::string TinyTokenizerConfigJson() {
  const Json json = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                     {"bos_token", kSpecialTokens[kTinyEndOfText]},
                     {"eos_token", kSpecialTokens[kTinyImEnd]},
                     {"clean_up_tokenization_spaces", false},
                     {"chat_template", TinyChatTemplate()}};
  return json.dump(2) + "\n";
}

}  // namespace qamserve
