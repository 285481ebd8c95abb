#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/base/digest.h"
#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/decoder.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/post_processor.h"
#include "core/tokenizer/pre_tokenizer.h"
#include "core/tokenizer/tokenizer_config.h"
#include "core/tokenizer/tokenizer_json.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

// Tokens that chat models end a turn with, whatever their configuration calls eos.
constexpr std::string_view kTurnEnds[] = {"<|im_end|>", "<|eot_id|>",      "<end_of_turn>",
                                          "<|end|>",    "<|endoftext|>",   "<|end_of_text|>",
                                          "<|eom_id|>", "<|end_of_turn|>", "<end_of_utterance>"};

// One token as text is made from it.
struct TokenEntry {
  std::string text;
  bool exists = false;
  bool added = false;
  bool special = false;
};

class BpeTokenizer : public Tokenizer {
 public:
  BpeTokenizer(Normalizer normalizer, PreTokenizer pre_tokenizer, BpeModel model, Decoder decoder)
      : normalizer_(std::move(normalizer)),
        pre_tokenizer_(std::move(pre_tokenizer)),
        model_(std::move(model)),
        decoder_(std::move(decoder)) {}

  absl::Status Init(const TokenizerSpec& spec, const TokenizerConfig& config);
  void SetDigest(std::string digest) { digest_ = std::move(digest); }

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override;
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const override;
  std::string TokenBytes(int32_t id) const override;
  int32_t size() const override { return static_cast<int32_t>(tokens_.size()); }
  std::optional<int32_t> TokenToId(std::string_view token) const override;
  bool IsSpecial(int32_t id) const override { return Exists(id) && tokens_[static_cast<size_t>(id)].special; }
  std::optional<int32_t> bos_id() const override { return bos_id_; }
  const std::vector<int32_t>& stop_ids() const override { return stop_ids_; }
  const std::string& digest() const override { return digest_; }

 private:
  bool Exists(int32_t id) const { return id >= 0 && id < size() && tokens_[static_cast<size_t>(id)].exists; }
  absl::Status FillTokens(const std::vector<AddedToken>& added);
  absl::Status FillFrame(const TokenizerSpec& spec, const TokenizerConfig& config);
  void FillStops(const TokenizerConfig& config);
  void EncodeSection(std::string_view text, bool at_start, const EncodeOptions& options,
                     std::vector<int32_t>& out) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeModel model_;
  Decoder decoder_;
  AddedTokenMatcher raw_tokens_{{}};
  AddedTokenMatcher normalized_tokens_{{}};
  absl::flat_hash_map<std::string, int32_t> added_ids_;
  std::vector<TokenEntry> tokens_;
  SpecialFrame frame_;
  std::optional<int32_t> bos_id_;
  std::vector<int32_t> stop_ids_;
  std::string digest_;
};

absl::Status BpeTokenizer::Init(const TokenizerSpec& spec, const TokenizerConfig& config) {
  ASSIGN_OR_RETURN(const std::vector<AddedToken> added, ReadAddedTokens(FindField(spec.root, "added_tokens")));
  RETURN_IF_ERROR(FillTokens(added));
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (const AddedToken& token : added) {
    added_ids_[token.content] = token.id;
    if (!token.normalized) {
      raw.push_back(token);
      continue;
    }
    normalized.push_back(token);
    normalized.back().content = normalizer_.Apply(token.content);
  }
  raw_tokens_ = AddedTokenMatcher(std::move(raw));
  normalized_tokens_ = AddedTokenMatcher(std::move(normalized));
  RETURN_IF_ERROR(FillFrame(spec, config));
  FillStops(config);
  return absl::OkStatus();
}

absl::Status BpeTokenizer::FillTokens(const std::vector<AddedToken>& added) {
  int32_t last = 0;
  for (const auto& [text, id] : model_.vocab()) last = std::max(last, id);
  for (const AddedToken& token : added) last = std::max(last, token.id);
  tokens_.resize(static_cast<size_t>(last) + 1);
  for (const auto& [text, id] : model_.vocab()) {
    TokenEntry& entry = tokens_[static_cast<size_t>(id)];
    if (entry.exists) {
      return InvalidArgument("TOKENIZER_INVALID", "model.vocab: \"{}\" and \"{}\" share the id {}", entry.text, text,
                             id);
    }
    entry = {text, true, false, false};
  }
  for (const AddedToken& token : added) {
    TokenEntry& entry = tokens_[static_cast<size_t>(token.id)];
    const std::optional<int32_t> in_vocab = model_.Find(token.content);
    if ((entry.exists && entry.text != token.content) || (in_vocab && *in_vocab != token.id)) {
      return InvalidArgument("TOKENIZER_INVALID",
                             "added_tokens: \"{}\" has the id {}, which the vocabulary gives to \"{}\"", token.content,
                             token.id, entry.exists ? entry.text : "another token");
    }
    entry = {token.content, true, true, token.special};
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::FillFrame(const TokenizerSpec& spec, const TokenizerConfig& config) {
  ASSIGN_OR_RETURN(frame_, ReadPostProcessor(FindField(spec.root, "post_processor"), size()));
  if (!config.bos_token.empty()) {
    bos_id_ = TokenToId(config.bos_token);
    if (!bos_id_) {
      return InvalidArgument("TOKENIZER_CONFIG_INVALID", "bos_token \"{}\" is not in the vocabulary", config.bos_token);
    }
  }
  if (!config.eos_token.empty() && !TokenToId(config.eos_token)) {
    return InvalidArgument("TOKENIZER_CONFIG_INVALID", "eos_token \"{}\" is not in the vocabulary", config.eos_token);
  }
  if (!frame_.from_template) {
    if (config.add_bos_token && bos_id_) frame_.before.push_back(*bos_id_);
    if (config.add_eos_token && !config.eos_token.empty()) frame_.after.push_back(*TokenToId(config.eos_token));
  }
  if (!bos_id_ && !frame_.before.empty()) bos_id_ = frame_.before.front();
  return absl::OkStatus();
}

void BpeTokenizer::FillStops(const TokenizerConfig& config) {
  if (!config.eos_token.empty()) stop_ids_.push_back(*TokenToId(config.eos_token));
  for (const std::string_view text : kTurnEnds) {
    const std::optional<int32_t> id = TokenToId(text);
    if (id && IsSpecial(*id) && std::find(stop_ids_.begin(), stop_ids_.end(), *id) == stop_ids_.end()) {
      stop_ids_.push_back(*id);
    }
  }
}

void BpeTokenizer::EncodeSection(std::string_view text, bool at_start, const EncodeOptions& options,
                                 std::vector<int32_t>& out) const {
  std::string changed;
  if ((normalizer_.needs_utf8() || pre_tokenizer_.needs_utf8()) && !IsRepairedUtf8(text)) {
    changed = RepairUtf8(text);
    text = changed;
  }
  if (!normalizer_.empty()) {
    changed = normalizer_.Apply(std::string(text));
    text = changed;
  }
  for (const Section& section : normalized_tokens_.Split(text, options.parse_special)) {
    if (section.id >= 0) {
      out.push_back(section.id);
    } else {
      const bool first = at_start && section.text.data() == text.data();
      const Pieces pieces = pre_tokenizer_.Split(section.text, first);
      for (const std::string_view piece : pieces.views) model_.Encode(piece, out);
    }
  }
}

std::vector<int32_t> BpeTokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<int32_t> out;
  out.reserve(text.size() / 3 + 8);
  if (options.add_special) out = frame_.before;
  for (const Section& section : raw_tokens_.Split(text, options.parse_special)) {
    if (section.id >= 0) {
      out.push_back(section.id);
    } else {
      EncodeSection(section.text, section.text.data() == text.data(), options, out);
    }
  }
  if (options.add_special) out.insert(out.end(), frame_.after.begin(), frame_.after.end());
  return out;
}

std::string BpeTokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  bool first = true;
  for (const int32_t id : ids) {
    if (!Exists(id) || (skip_special && IsSpecial(id))) continue;
    const TokenEntry& token = tokens_[static_cast<size_t>(id)];
    out += first ? decoder_.FirstTokenBytes(token.text, token.added) : decoder_.TokenBytes(token.text, token.added);
    first = false;
  }
  if (decoder_.strips_leading_space() && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

std::string BpeTokenizer::TokenBytes(int32_t id) const {
  if (!Exists(id)) return "";
  const TokenEntry& token = tokens_[static_cast<size_t>(id)];
  return decoder_.TokenBytes(token.text, token.added);
}

std::optional<int32_t> BpeTokenizer::TokenToId(std::string_view token) const {
  const auto found = added_ids_.find(absl::string_view(token.data(), token.size()));
  if (found != added_ids_.end()) return found->second;
  return model_.Find(token);
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> CreateTokenizer(const TokenizerFiles& files) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, ParseTokenizerConfig(files.tokenizer_config_json));
  ASSIGN_OR_RETURN(TokenizerSpec spec, ParseTokenizerJson(files.tokenizer_json));
  ASSIGN_OR_RETURN(Normalizer normalizer, Normalizer::Create(FindField(spec.root, "normalizer")));
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Create(FindField(spec.root, "pre_tokenizer")));
  ASSIGN_OR_RETURN(Decoder decoder, Decoder::Create(FindField(spec.root, "decoder")));
  const BpeOptions options{pre_tokenizer.byte_level(), config.gguf_rules};
  ASSIGN_OR_RETURN(BpeModel model, BpeModel::Create(spec, options));
  auto tokenizer = std::make_shared<BpeTokenizer>(std::move(normalizer), std::move(pre_tokenizer), std::move(model),
                                                  std::move(decoder));
  RETURN_IF_ERROR(tokenizer->Init(spec, config));
  tokenizer->SetDigest(Sha256Hex(files.tokenizer_json));
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Create(const TokenizerFiles& files, std::string origin) {
  if (files.tokenizer_json.empty()) {
    return InvalidArgument("TOKENIZER_INVALID", "{}: there is no tokenizer.json", origin);
  }
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = CreateTokenizer(files);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), fmt::format("{}: tokenizer", origin));
  return tokenizer;
}

}  // namespace qamserve
