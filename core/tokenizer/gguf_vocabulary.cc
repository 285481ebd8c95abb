#include "core/tokenizer/gguf_vocabulary.h"

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <algorithm>
#include <utility>

#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/pre_tokenizer.h"
#include "core/tokenizer/tokenizer_config.h"
#include "core/tokenizer/tokenizer_json.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

constexpr std::string_view kProbe =
    "Hello, world! It's they're I'VE WE'LL he'd 'tis 'Re don't O'Neill's\n"
    "one  two   three    four\n\n\tfive \t six\r\n  seven \n \n\n eight\n"
    "1 12 123 1234 12345 1,234.56 3x4 7th v2 2024-05-17 \xD9\xA3\xD9\xA4 \xC2\xBD\n"
    "camelCase CamelCase HTTPServer snake_case iPhone ABCdef a/b/c path/to/file.txt\n"
    "if (a && b) { return x[i]->y + $z; } // <=> ^ ~ | `code` @user #tag \"q\" \\n 50%\n"
    "na\xC3\xAFve co\xC3\xB6perate \xC3\x9Cn\xC3\xAF \xC2\xA1Hola! \xC2\xAB"
    "bon\xC2\xBB \xE2\x80\x93 \xE2\x80\x9Cquoted\xE2\x80\x9D \xE2\x80\xA6\n"
    "\xE6\xBC\xA2\xE5\xAD\x97\xE3\x81\x8B\xE3\x81\xAA\xE3\x82\xAB\xE3\x83\x8A \xED\x95\x9C\xEA\xB5\xAD\xEC\x96\xB4 "
    "\xE4\xB8\xAD\xE6\x96\x87\xEF\xBC\x8C\xE6\xA0\x87\xE7\x82\xB9\xE3\x80\x82 \xD0\x9F\xD1\x80\xD0\xB8"
    "\xD0\xB2\xD0\xB5\xD1\x82 \xCE\x93\xCE\xB5\xCE\xB9\xCE\xAC \xD8\xA7\xD9\x84\xD8\xB9 \xD7\xA2\xD7\x91\n"
    "\xE0\xA4\xB9\xE0\xA4\xBF\xE0\xA4\xA8\xE0\xA5\x8D\xE0\xA4\xA6\xE0\xA5\x80 \xE0\xB9\x84\xE0\xB8\x97\xE0\xB8\xA2 "
    "\xE2\x82\xAC\xC2\xA3 \xE2\x88\x91\xE2\x89\xA0 \xF0\x9F\x98\x80\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD end.";

absl::string_view AbslView(std::string_view s) { return {s.data(), s.size()}; }

template <typename... Args>
absl::Status Unsupported(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kUnimplemented, "TOKENIZER_UNSUPPORTED",
                   "GGUF cannot say: " + fmt::format(format, std::forward<Args>(args)...));
}

// The parts of a tokenizer.json that both kinds of GGUF vocabulary are made from.
struct Parts {
  TokenizerSpec spec;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<AddedToken> added;
};

absl::StatusOr<Parts> ReadParts(const TokenizerFiles& files) {
  ASSIGN_OR_RETURN(TokenizerSpec spec, ParseTokenizerJson(files.tokenizer_json));
  ASSIGN_OR_RETURN(Normalizer normalizer, Normalizer::Create(FindField(spec.root, "normalizer")));
  ASSIGN_OR_RETURN(PreTokenizer pre, PreTokenizer::Create(FindField(spec.root, "pre_tokenizer")));
  ASSIGN_OR_RETURN(std::vector<AddedToken> added, ReadAddedTokens(FindField(spec.root, "added_tokens")));
  return Parts{std::move(spec), std::move(normalizer), std::move(pre), std::move(added)};
}

// The text as the merges see it: normalized and rewritten, cut or not.
std::string Rewritten(const Parts& parts, std::string text) {
  text = parts.normalizer.Apply(std::move(text));
  std::string out;
  for (const std::string_view piece : parts.pre_tokenizer.Split(text, /*at_start=*/true).views) out += piece;
  return out;
}

absl::Status FillTokens(const Parts& parts, int64_t vocab_size, GgufVocabulary& out) {
  out.tokens.resize(static_cast<size_t>(vocab_size));
  out.types.assign(static_cast<size_t>(vocab_size), kGgufUnused);
  for (size_t id = 0; id < out.tokens.size(); ++id) out.tokens[id] = fmt::format("[PAD{}]", id);
  const auto put = [&](const std::string& text, int32_t id, int32_t type) -> absl::Status {
    if (id >= vocab_size) {
      return InvalidArgument("TOKENIZER_INVALID", "token \"{}\" has the id {}, and the model has {} rows for tokens",
                             text, id, vocab_size);
    }
    out.tokens[static_cast<size_t>(id)] = text;
    out.types[static_cast<size_t>(id)] = type;
    return absl::OkStatus();
  };
  for (const auto& [text, id] : parts.spec.vocab) RETURN_IF_ERROR(put(text, id, kGgufNormal));
  for (const AddedToken& token : parts.added) {
    RETURN_IF_ERROR(put(token.content, token.id, token.special ? kGgufControl : kGgufUserDefined));
  }
  return absl::OkStatus();
}

// ---- Byte-level BPE ----

// The name of the pre-tokenizer that cuts the probe as this one does.
absl::StatusOr<std::string> FindPre(const Parts& parts, bool ignore_merges) {
  const Pieces expected = parts.pre_tokenizer.Split(kProbe, /*at_start=*/true);
  for (const std::string_view name : GgufPreTokenizerNames()) {
    ASSIGN_OR_RETURN(const GgufPreTokenizer known, FindGgufPreTokenizer(name));
    if (known.ignore_merges != ignore_merges) continue;
    const Json json = PreTokenizerJson(known);
    ASSIGN_OR_RETURN(const PreTokenizer candidate, PreTokenizer::Create(&json));
    if (candidate.Split(kProbe, /*at_start=*/true).views == expected.views) return std::string(name);
  }
  return Unsupported("pre_tokenizer of tokenizer.json (with model.ignore_merges {}); none that has a name cuts like it",
                     ignore_merges);
}

absl::Status FillByteLevel(const Parts& parts, GgufVocabulary& out) {
  out.model = "gpt2";
  if (parts.normalizer.Apply(std::string(kProbe)) != kProbe) {
    return Unsupported("normalizer of tokenizer.json, which is more than NFC, with byte-level BPE");
  }
  ASSIGN_OR_RETURN(const bool ignore_merges, BoolField(parts.spec.root["model"], "ignore_merges", false));
  ASSIGN_OR_RETURN(out.pre, FindPre(parts, ignore_merges));
  out.merges.reserve(parts.spec.merges.size());
  for (const auto& [left, right] : parts.spec.merges) {
    if (left.find(' ') != std::string::npos || right.find(' ') != std::string::npos) {
      return Unsupported("the merge of \"{}\" and \"{}\", which has a space", left, right);
    }
    out.merges.push_back(fmt::format("{} {}", left, right));
  }
  return absl::OkStatus();
}

// ---- SentencePiece ----

// A list of merges as SentencePiece has it: a token is made of any two tokens that add up to it, and each token has one
// place in the order.
class MergeOrder {
 public:
  explicit MergeOrder(const TokenizerSpec& spec) {
    for (const auto& [text, id] : spec.vocab) ids_.emplace(text, id);
    for (const auto& [left, right] : spec.merges) {
      const auto joined = ids_.find(left + right);
      if (joined == ids_.end()) continue;
      pairs_.insert(fmt::format("{} {}", left, right));
      order_.emplace(joined->second, static_cast<int32_t>(order_.size()));
    }
  }

  bool Makes(int32_t id) const { return order_.contains(id); }
  // The earlier a token is made the higher. Tokens that no merge makes come last.
  float Score(int32_t id) const {
    const auto found = order_.find(id);
    return -static_cast<float>(found == order_.end() ? order_.size() : static_cast<size_t>(found->second));
  }
  // A way to cut `token` in two tokens that the list does not have, or "".
  std::string MissingCut(std::string_view token) const {
    for (size_t at = Utf8Length(static_cast<unsigned char>(token[0])); at < token.size();
         at += Utf8Length(static_cast<unsigned char>(token[at]))) {
      const std::string_view left = token.substr(0, at), right = token.substr(at);
      if (!ids_.contains(AbslView(left)) || !ids_.contains(AbslView(right))) continue;
      std::string pair = fmt::format("{} {}", left, right);
      if (!pairs_.contains(pair)) return pair;
    }
    return "";
  }

 private:
  absl::flat_hash_map<std::string, int32_t> ids_;
  absl::flat_hash_set<std::string> pairs_;       // "left right"; no half has a space
  absl::flat_hash_map<int32_t, int32_t> order_;  // token -> place among the tokens that merges make
};

// Spaces must become marks and nothing else may change.
absl::StatusOr<bool> HasSpacePrefix(const Parts& parts) {
  const std::string mark(kSpaceMark);
  for (const bool prefix : {false, true}) {
    const std::string marked = fmt::format("{0}a{1}b{1}{1}C\n1", prefix ? mark : "", mark);
    if (Rewritten(parts, "a b  C\n1") == marked) return prefix;
  }
  return Unsupported("normalizer and pre_tokenizer of tokenizer.json: spaces do not become U+2581 and nothing else");
}

// User-defined tokens that are written with marks. Where the text itself is searched for them, only a text with marks
// holds them, and merges make them of spaces; where the normalized text is, spaces do.
void SpellUserDefined(const Parts& parts, const MergeOrder& order, GgufVocabulary& out) {
  for (const AddedToken& token : parts.added) {
    const auto at = static_cast<size_t>(token.id);
    if (token.special || token.content.find(kSpaceMark) == std::string::npos) continue;
    if (!token.normalized && order.Makes(token.id)) {
      out.types[at] = kGgufNormal;
    } else {
      out.tokens[at] = ReplaceAll(token.content, kSpaceMark, " ");
    }
  }
}

absl::Status FillSentencePiece(const Parts& parts, GgufVocabulary& out) {
  out.model = "llama";
  out.pre = "default";
  ASSIGN_OR_RETURN(out.add_space_prefix, HasSpacePrefix(parts));
  const Json& model = parts.spec.root["model"];
  ASSIGN_OR_RETURN(const bool byte_fallback, BoolField(model, "byte_fallback", false));
  ASSIGN_OR_RETURN(const bool ignore_merges, BoolField(model, "ignore_merges", false));
  if (!byte_fallback) return Unsupported("SentencePiece without model.byte_fallback");
  if (ignore_merges) return Unsupported("SentencePiece with model.ignore_merges");
  ASSIGN_OR_RETURN(const std::string unknown, StringField(model, "unk_token", ""));
  for (int byte = 0; byte < 256; ++byte) {
    const auto token = std::find(out.tokens.begin(), out.tokens.end(), fmt::format("<0x{:02X}>", byte));
    if (token == out.tokens.end()) return Unsupported("byte fallback without <0x{:02X}>", byte);
    out.types[static_cast<size_t>(token - out.tokens.begin())] = kGgufByte;
  }
  const MergeOrder order(parts.spec);
  SpellUserDefined(parts, order, out);
  out.scores.reserve(out.tokens.size());
  for (size_t i = 0; i < out.tokens.size(); ++i) {
    out.scores.push_back(order.Score(static_cast<int32_t>(i)));
    if (!unknown.empty() && out.tokens[i] == unknown) {
      out.types[i] = kGgufUnknown;
      out.unknown = static_cast<int32_t>(i);
    }
    const std::string missing = out.types[i] == kGgufNormal ? order.MissingCut(out.tokens[i]) : "";
    if (missing.empty()) continue;
    return Unsupported("that \"{}\" is not a merge: scores let every two tokens join that add up to one", missing);
  }
  return absl::OkStatus();
}

// ---- What goes around a text ----

absl::Status FillSpecials(const Tokenizer& tokenizer, const TokenizerFiles& files, GgufVocabulary& out) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, ParseTokenizerConfig(files.tokenizer_config_json));
  out.bos = tokenizer.bos_id();
  if (!config.eos_token.empty()) out.eos = tokenizer.TokenToId(config.eos_token);
  if (!out.eos && !tokenizer.stop_ids().empty()) out.eos = tokenizer.stop_ids().front();
  const std::vector<int32_t> plain = tokenizer.Encode("a", {});
  const std::vector<int32_t> framed = tokenizer.Encode("a", {.add_special = true});
  const auto text = std::search(framed.begin(), framed.end(), plain.begin(), plain.end());
  const std::vector<int32_t> before(framed.begin(), text);
  const std::vector<int32_t> after(text + static_cast<ptrdiff_t>(plain.size()), framed.end());
  out.add_bos = out.bos && before == std::vector<int32_t>{*out.bos};
  out.add_eos = out.eos && after == std::vector<int32_t>{*out.eos};
  if (out.add_bos != !before.empty() || out.add_eos != !after.empty()) {
    return Unsupported(
        "post_processor of tokenizer.json: {} tokens before a text and {} after it, which are not one "
        "bos_token and one eos_token",
        before.size(), after.size());
  }
  out.chat_template = files.chat_template;
  return absl::OkStatus();
}

absl::StatusOr<GgufVocabulary> Convert(const TokenizerFiles& files, int64_t vocab_size, const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(const Parts parts, ReadParts(files));
  GgufVocabulary out;
  RETURN_IF_ERROR(FillTokens(parts, vocab_size, out));
  RETURN_IF_ERROR(parts.pre_tokenizer.byte_level() ? FillByteLevel(parts, out) : FillSentencePiece(parts, out));
  RETURN_IF_ERROR(FillSpecials(tokenizer, files, out));
  return out;
}

}  // namespace

std::string_view TokenizerProbe() { return kProbe; }

absl::StatusOr<GgufVocabulary> GgufVocabularyOf(const TokenizerFiles& files, int64_t vocab_size,
                                                const std::string& origin) {
  // Checks what Convert takes for granted.
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Create(files, origin));
  absl::StatusOr<GgufVocabulary> out = Convert(files, vocab_size, *tokenizer);
  if (!out.ok()) return Annotate(out.status(), fmt::format("{}: tokenizer", origin));
  return out;
}

absl::Status CheckSameIds(const Tokenizer& expected, const Tokenizer& actual) {
  for (const std::string_view text : {kProbe, kProbe.substr(0, 1)}) {
    const std::vector<int32_t> a = expected.Encode(text, {.add_special = true});
    const std::vector<int32_t> b = actual.Encode(text, {.add_special = true});
    if (a == b) continue;
    const auto n = static_cast<ptrdiff_t>(std::min(a.size(), b.size()));
    const auto at = std::mismatch(a.begin(), a.begin() + n, b.begin()).first - a.begin();
    return MakeError(absl::StatusCode::kUnimplemented, "TOKENIZER_UNSUPPORTED",
                     fmt::format("the ids of a probe text differ, first at token {} of {}: after \"{}\"", at, a.size(),
                                 expected.Decode(std::span(a).first(static_cast<size_t>(at)), true)));
  }
  return absl::OkStatus();
}

}  // namespace qamserve
