// Hand-made tokenizers for the tests of core/tokenizer.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {

using Json = nlohmann::json;

// A byte-level BPE with the 256 bytes as ids 0..255, then one token per merge from 256 on, then "<|end|>" (special).
// Merges are written in the byte alphabet.
inline Json ByteLevelJson(const std::vector<std::pair<std::string, std::string>>& merges) {
  const ByteAlphabet alphabet;
  Json vocab = Json::object();
  for (int i = 0; i < 256; ++i) vocab[alphabet.CharOf(static_cast<uint8_t>(i))] = i;
  Json list = Json::array();
  for (const auto& [left, right] : merges) {
    if (!vocab.contains(left + right)) vocab[left + right] = vocab.size();
    list.push_back(fmt::format("{} {}", left, right));
  }
  const size_t end = vocab.size();
  return {{"version", "1.0"},
          {"added_tokens",
           {{{"id", end},
             {"content", "<|end|>"},
             {"special", true},
             {"normalized", false},
             {"lstrip", false},
             {"rstrip", false},
             {"single_word", false}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", list}}}};
}

// SentencePiece style: "<unk>" 0, "<s>" 1, "</s>" 2, the bytes <0x00>.. as 3..258, then `pieces` from 259 on. Merges
// are pairs of pieces, best first.
inline Json SentencePieceJson(const std::vector<std::string>& pieces,
                              const std::vector<std::pair<std::string, std::string>>& merges) {
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int i = 0; i < 256; ++i) vocab[fmt::format("<0x{:02X}>", i)] = i + 3;
  for (const std::string& piece : pieces) vocab[piece] = vocab.size();
  Json list = Json::array();
  for (const auto& [left, right] : merges) list.push_back({left, right});
  Json added = Json::array();
  for (const char* text : {"<unk>", "<s>", "</s>"}) {
    added.push_back({{"id", vocab[text]}, {"content", text}, {"special", true}, {"normalized", false}});
  }
  const Json mark = "\xE2\x96\x81";
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", mark}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", mark}}}}}},
          {"pre_tokenizer", nullptr},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", {{"String", mark}}}, {"content", " "}},
              {{"type", "ByteFallback"}},
              {{"type", "Fuse"}},
              {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", list}}}};
}

inline absl::StatusOr<std::shared_ptr<const Tokenizer>> Make(const Json& json, const Json& config = Json::object()) {
  return Tokenizer::Create({json.dump(), config.dump(), ""}, "test");
}

inline std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options = {}) {
  return tokenizer.Encode(text, options);
}

}  // namespace qamserve
