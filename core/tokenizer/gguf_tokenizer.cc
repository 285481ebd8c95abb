#include <absl/container/flat_hash_map.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <iterator>
#include <tuple>
#include <utility>

#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/gguf_vocabulary.h"
#include "core/tokenizer/json_fields.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_config.h"
#include "core/tokenizer/tokenizer_json.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

// Texts that llama.cpp treats as control tokens whatever type the file gives them: they end a generation.
constexpr std::string_view kControlTexts[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>",        "<end_of_turn>",      "<|endoftext|>",
    "</s>",       "<|eom_id|>", "<EOT>",   "_<EOT>",     "<|end_of_text|>", "<end_of_utterance>", "<eos>",
    "[EOT]",      "[EOS]",      "<turn|>", "<|flush|>",  "<|calls|>",       "<|tool_response>",   "[e~["};

absl::string_view AbslView(std::string_view s) { return {s.data(), s.size()}; }

struct Vocabulary {
  std::string model_name;  // in lower case
  std::vector<std::string> tokens;
  std::vector<int64_t> types;
  absl::flat_hash_map<absl::string_view, int32_t> ids;  // views into `tokens`

  bool Has(std::string_view token) const { return ids.contains(AbslView(token)); }
};

// Ids and switches of the special tokens.
struct Specials {
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
  std::optional<int32_t> unknown;
  bool add_bos = false;
  bool add_eos = false;
};

absl::StatusOr<Vocabulary> ReadVocabulary(const GgufReader& gguf) {
  Vocabulary vocabulary;
  if (gguf.Has("general.name")) {
    ASSIGN_OR_RETURN(vocabulary.model_name, gguf.GetString("general.name"));
    for (char& c : vocabulary.model_name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  ASSIGN_OR_RETURN(vocabulary.tokens, gguf.GetStrings("tokenizer.ggml.tokens"));
  const size_t n = vocabulary.tokens.size();
  if (n == 0 || n > static_cast<size_t>(kMaxTokens)) {
    return InvalidArgument("TOKENIZER_INVALID", "tokenizer.ggml.tokens has {} tokens; 1 to {} are allowed", n,
                           kMaxTokens);
  }
  if (gguf.Has("tokenizer.ggml.token_type")) {
    ASSIGN_OR_RETURN(vocabulary.types, gguf.GetInts("tokenizer.ggml.token_type"));
  } else {
    vocabulary.types.assign(n, 1);
  }
  if (vocabulary.types.size() != n) {
    return InvalidArgument("TOKENIZER_INVALID", "tokenizer.ggml.token_type has {} entries for {} tokens",
                           vocabulary.types.size(), n);
  }
  vocabulary.ids.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    std::string& token = vocabulary.tokens[i];
    if (token.empty()) token = fmt::format("[EMPTY_{}]", i);
    if (!IsRepairedUtf8(token) || HasSurrogates(token)) {
      return InvalidArgument("TOKENIZER_INVALID", "tokenizer.ggml.tokens: token {} is not UTF-8", i);
    }
    if (!vocabulary.ids.try_emplace(AbslView(token), static_cast<int32_t>(i)).second) {
      return InvalidArgument("TOKENIZER_INVALID", "tokenizer.ggml.tokens: \"{}\" is there twice, last at {}", token, i);
    }
    const bool control =
        std::find(std::begin(kControlTexts), std::end(kControlTexts), token) != std::end(kControlTexts);
    if (control) vocabulary.types[i] = kGgufControl;
  }
  return vocabulary;
}

// `fallback` < 0: none. Ids that the file gives outside the vocabulary are an error.
absl::StatusOr<std::optional<int32_t>> ReadId(const GgufReader& gguf, const char* key, int64_t fallback, size_t size) {
  int64_t id = fallback;
  if (gguf.Has(key)) {
    ASSIGN_OR_RETURN(id, gguf.GetInt(key));
    if (id < 0 || id >= static_cast<int64_t>(size)) {
      return InvalidArgument("TOKENIZER_INVALID", "{} is {}, outside the vocabulary of {} tokens", key, id, size);
    }
  }
  if (id < 0 || id >= static_cast<int64_t>(size)) return std::optional<int32_t>();
  return std::optional<int32_t>(static_cast<int32_t>(id));
}

absl::StatusOr<bool> ReadBool(const GgufReader& gguf, const char* key, bool fallback) {
  if (!gguf.Has(key)) return fallback;
  return gguf.GetBool(key);
}

absl::StatusOr<Specials> ReadSpecials(const GgufReader& gguf, bool spm, bool add_bos, size_t size) {
  Specials specials;
  // The defaults are those of the first Llama, whose files left the keys out.
  ASSIGN_OR_RETURN(specials.bos, ReadId(gguf, "tokenizer.ggml.bos_token_id", spm ? 1 : -1, size));
  ASSIGN_OR_RETURN(specials.eos, ReadId(gguf, "tokenizer.ggml.eos_token_id", spm ? 2 : -1, size));
  ASSIGN_OR_RETURN(specials.unknown, ReadId(gguf, "tokenizer.ggml.unknown_token_id", spm ? 0 : -1, size));
  ASSIGN_OR_RETURN(specials.add_bos, ReadBool(gguf, "tokenizer.ggml.add_bos_token", add_bos));
  ASSIGN_OR_RETURN(specials.add_eos, ReadBool(gguf, "tokenizer.ggml.add_eos_token", false));
  if ((specials.add_bos && !specials.bos) || (specials.add_eos && !specials.eos)) {
    return InvalidArgument("TOKENIZER_INVALID", "tokenizer.ggml.add_{0}_token is set but there is no {0}_token_id",
                           specials.add_bos && !specials.bos ? "bos" : "eos");
  }
  return specials;
}

// Phi-3 takes the white space after its special tokens; GGUF files have no field for it, so the name tells.
bool StripsRight(const std::string& model_name, std::string_view token) {
  const bool phi3 = model_name.find("phi-3") != std::string::npos || model_name.find("phi3") != std::string::npos;
  return phi3 && token != "<unk>" && token != "<s>" && token != "<|endoftext|>";
}

Json AddedTokens(const Vocabulary& vocabulary) {
  Json list = Json::array();
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const int64_t type = vocabulary.types[i];
    if (type != kGgufUnknown && type != kGgufControl && type != kGgufUserDefined) continue;
    list.push_back({{"id", i},
                    {"content", vocabulary.tokens[i]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", StripsRight(vocabulary.model_name, vocabulary.tokens[i])},
                    {"normalized", false},
                    {"special", type != kGgufUserDefined}});
  }
  return list;
}

Json VocabTable(const Vocabulary& vocabulary) {
  Json table = Json::object();
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) table[vocabulary.tokens[i]] = i;
  return table;
}

Json PostProcessor(const Vocabulary& vocabulary, const Specials& specials) {
  if (!specials.add_bos && !specials.add_eos) return nullptr;
  Json single = Json::array();
  Json table = Json::object();
  const auto add = [&](int32_t id) {
    const std::string& text = vocabulary.tokens[static_cast<size_t>(id)];
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
    table[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
  };
  if (specials.add_bos) add(*specials.bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  Json pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 0}}}});
  if (specials.add_eos) {
    add(*specials.eos);
    pair.push_back(single.back());
  }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", table}};
}

Json NewTokenizer(const Vocabulary& vocabulary, const Specials& specials) {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", AddedTokens(vocabulary)},
          {"normalizer", nullptr},
          {"pre_tokenizer", nullptr},
          {"post_processor", PostProcessor(vocabulary, specials)},
          {"decoder", nullptr},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", VocabTable(vocabulary)},
            {"merges", Json::array()}}}};
}

// tokenizer.ggml.model "gpt2".
absl::StatusOr<Json> ByteLevelTokenizer(const GgufReader& gguf, const Vocabulary& vocabulary, const Specials& specials,
                                        const GgufPreTokenizer& pre) {
  Json json = NewTokenizer(vocabulary, specials);
  ASSIGN_OR_RETURN(std::vector<std::string> merges, gguf.GetStrings("tokenizer.ggml.merges"));
  if (merges.size() > kMaxMerges) {
    return InvalidArgument("TOKENIZER_INVALID", "tokenizer.ggml.merges has {} entries; the limit is {}", merges.size(),
                           kMaxMerges);
  }
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ', 1);
    const std::string_view left = std::string_view(merges[i]).substr(0, space);
    if (space == std::string::npos || !vocabulary.Has(left) ||
        !vocabulary.Has(std::string_view(merges[i]).substr(space + 1))) {
      return InvalidArgument("TOKENIZER_INVALID", "tokenizer.ggml.merges: entry {} does not name two tokens", i);
    }
  }
  json["model"]["merges"] = std::move(merges);
  json["model"]["ignore_merges"] = pre.ignore_merges;
  json["pre_tokenizer"] = PreTokenizerJson(pre);
  json["decoder"] = PlainByteLevelJson();
  return json;
}

// SentencePiece joins the adjacent pair whose union has the best score. As a list of merges: every way to cut a token
// in two tokens, best score first.
std::vector<std::string> MergesFromScores(const Vocabulary& vocabulary, const std::vector<double>& scores) {
  std::vector<std::tuple<double, int32_t, uint32_t>> cuts;  // (-score, id, bytes of the left half)
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string_view token = vocabulary.tokens[i];
    // Spaces are marks by the time tokens are merged, so such a token is never made.
    if (token.find(' ') != std::string_view::npos) continue;
    for (size_t at = Utf8Length(static_cast<unsigned char>(token[0])); at < token.size();
         at += Utf8Length(static_cast<unsigned char>(token[at]))) {
      if (vocabulary.Has(token.substr(0, at)) && vocabulary.Has(token.substr(at))) {
        cuts.emplace_back(-scores[i], static_cast<int32_t>(i), static_cast<uint32_t>(at));
      }
    }
  }
  std::sort(cuts.begin(), cuts.end());
  std::vector<std::string> merges;
  merges.reserve(cuts.size());
  for (const auto& [score, id, at] : cuts) {
    std::string merge = vocabulary.tokens[static_cast<size_t>(id)];
    merge.insert(at, 1, ' ');
    merges.push_back(std::move(merge));
  }
  return merges;
}

// tokenizer.ggml.model "llama".
absl::StatusOr<Json> SentencePieceTokenizer(const GgufReader& gguf, const Vocabulary& vocabulary,
                                            const Specials& specials) {
  ASSIGN_OR_RETURN(const std::vector<double> scores, gguf.GetFloats("tokenizer.ggml.scores"));
  if (scores.size() != vocabulary.tokens.size()) {
    return InvalidArgument("TOKENIZER_INVALID", "tokenizer.ggml.scores has {} entries for {} tokens", scores.size(),
                           vocabulary.tokens.size());
  }
  const auto bad = std::find_if(scores.begin(), scores.end(), [](double s) { return !std::isfinite(s); });
  if (bad != scores.end()) {
    return InvalidArgument("TOKENIZER_INVALID", "tokenizer.ggml.scores: entry {} is not finite", bad - scores.begin());
  }
  ASSIGN_OR_RETURN(const bool prefix, ReadBool(gguf, "tokenizer.ggml.add_space_prefix", true));
  Json json = NewTokenizer(vocabulary, specials);
  Json& model = json["model"];
  model["merges"] = MergesFromScores(vocabulary, scores);
  model["byte_fallback"] = vocabulary.Has("<0x00>");
  model["fuse_unk"] = true;
  if (specials.unknown) model["unk_token"] = vocabulary.tokens[static_cast<size_t>(*specials.unknown)];
  const Json to_mark = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpaceMark}};
  Json normalizers = Json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  normalizers.push_back(to_mark);
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  Json decoders = {{{"type", "Replace"}, {"pattern", {{"String", kSpaceMark}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}};
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  json["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  return json;
}

Json ConfigJson(const Vocabulary& vocabulary, const Specials& specials) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"add_bos_token", specials.add_bos},
                 {"add_eos_token", specials.add_eos},
                 {kMergeRulesKey, kGgufMergeRules}};
  const auto put = [&](const char* name, const std::optional<int32_t>& id) {
    if (id) config[name] = vocabulary.tokens[static_cast<size_t>(*id)];
  };
  put("bos_token", specials.bos);
  put("eos_token", specials.eos);
  put("unk_token", specials.unknown);
  return config;
}

absl::StatusOr<TokenizerFiles> Convert(const GgufReader& gguf) {
  ASSIGN_OR_RETURN(const std::string model, gguf.GetString("tokenizer.ggml.model"));
  const bool spm = model == "llama";
  if (!spm && model != "gpt2") {
    return Unimplemented("TOKENIZER_UNSUPPORTED", "tokenizer.ggml.model \"{}\"; gpt2 and llama are supported", model);
  }
  GgufPreTokenizer pre{{}, false, /*add_bos=*/true};
  if (!spm) {
    std::string name = "default";
    if (gguf.Has("tokenizer.ggml.pre")) {
      ASSIGN_OR_RETURN(name, gguf.GetString("tokenizer.ggml.pre"));
    }
    ASSIGN_OR_RETURN(pre, FindGgufPreTokenizer(name));
  }
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(gguf));
  ASSIGN_OR_RETURN(const Specials specials, ReadSpecials(gguf, spm, pre.add_bos, vocabulary.tokens.size()));
  TokenizerFiles files;
  if (gguf.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(files.chat_template, gguf.GetString("tokenizer.chat_template"));
  }
  absl::StatusOr<Json> json =
      spm ? SentencePieceTokenizer(gguf, vocabulary, specials) : ByteLevelTokenizer(gguf, vocabulary, specials, pre);
  RETURN_IF_ERROR(json.status());
  files.tokenizer_json = json->dump();
  Json config = ConfigJson(vocabulary, specials);
  if (!files.chat_template.empty()) config["chat_template"] = files.chat_template;
  files.tokenizer_config_json = config.dump(2);
  return files;
}

}  // namespace

absl::StatusOr<TokenizerFiles> TokenizerFilesFromGguf(const GgufReader& gguf) {
  absl::StatusOr<TokenizerFiles> files(absl::InternalError(""));
  try {
    files = Convert(gguf);
  } catch (const Json::exception& e) {
    files = InvalidArgument("TOKENIZER_INVALID", "a text is not UTF-8: {}", e.what());
  }
  if (!files.ok()) return Annotate(files.status(), gguf.origin());
  return files;
}

}  // namespace qamserve
