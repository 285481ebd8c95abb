#include "core/tokenizer/tokenizer_json.h"

#include <functional>

namespace qamserve {
namespace {

// Deeper nesting is no tokenizer; the limit keeps hostile files from filling memory with brackets.
constexpr int kMaxDepth = 64;

// Receives the parse events and keeps vocab and merges out of the tree. Depths: the members of the root are at depth
// 1, those of "model" at 2, entries of "vocab" and "merges" at 3, the halves of a merge written as a pair at 4.
class TableCatcher {
 public:
  explicit TableCatcher(TokenizerSpec& spec) : spec_(spec) {}

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (!error_.ok()) return false;
    if (depth > kMaxDepth) {
      return Fail(InvalidArgument("TOKENIZER_INVALID", "nested deeper than {} levels", kMaxDepth));
    }
    if (event == Json::parse_event_t::key) {
      if (depth == 1) root_key_ = parsed.get_ref<const std::string&>();
      if (depth == 2) model_key_ = parsed.get_ref<const std::string&>();
      if (depth == 3 && InVocab()) token_ = parsed.get_ref<const std::string&>();
      return true;
    }
    if (event == Json::parse_event_t::value && depth == 3 && InVocab()) return TakeToken(parsed);
    if (event == Json::parse_event_t::value && depth >= 3 && InMerges()) return TakeMergeText(depth, parsed);
    if (event == Json::parse_event_t::array_end && depth == 3 && InMerges()) return TakePair();
    return true;
  }

  const absl::Status& error() const { return error_; }

 private:
  bool InVocab() const { return root_key_ == "model" && model_key_ == "vocab"; }
  bool InMerges() const { return root_key_ == "model" && model_key_ == "merges"; }

  // Values that a callback refuses are dropped from the tree.
  bool Fail(absl::Status status) {
    error_ = std::move(status);
    return false;
  }

  bool TakeToken(const Json& id) {
    if (!id.is_number_integer() || id < 0 || id >= kMaxTokens) {
      return Fail(InvalidArgument("TOKENIZER_INVALID", "model.vocab: token \"{}\" has an id outside [0, {})", token_,
                                  kMaxTokens));
    }
    spec_.vocab.emplace_back(std::move(token_), id.get<int32_t>());
    return false;
  }

  bool TakeMergeText(int depth, Json& text) {
    if (!text.is_string()) return Fail(NotAPair());
    auto& value = text.get_ref<std::string&>();
    if (depth == 4) {
      halves_.push_back(std::move(value));
      return false;
    }
    const size_t space = value.find(' ');
    if (space == std::string::npos || value.find(' ', space + 1) != std::string::npos) return Fail(NotAPair());
    return Add(value.substr(0, space), value.substr(space + 1));
  }

  bool TakePair() {
    if (halves_.size() != 2) return Fail(NotAPair());
    const bool kept = Add(std::move(halves_[0]), std::move(halves_[1]));
    halves_.clear();
    return kept;
  }

  bool Add(std::string left, std::string right) {
    if (spec_.merges.size() == kMaxMerges) {
      return Fail(InvalidArgument("TOKENIZER_INVALID", "model.merges: more than {} merges", kMaxMerges));
    }
    spec_.merges.emplace_back(std::move(left), std::move(right));
    return false;
  }

  absl::Status NotAPair() const {
    return InvalidArgument("TOKENIZER_INVALID", "model.merges: entry {} is not a pair of tokens", spec_.merges.size());
  }

  TokenizerSpec& spec_;
  absl::Status error_;
  std::string root_key_;
  std::string model_key_;
  std::string token_;
  std::vector<std::string> halves_;
};

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(std::string_view text) {
  TokenizerSpec spec;
  TableCatcher catcher(spec);
  try {
    spec.root = Json::parse(text.begin(), text.end(), std::ref(catcher));
  } catch (const Json::exception& e) {
    RETURN_IF_ERROR(catcher.error());
    return InvalidArgument("TOKENIZER_INVALID", "not JSON: {}", e.what());
  }
  RETURN_IF_ERROR(catcher.error());
  if (!spec.root.is_object()) return InvalidArgument("TOKENIZER_INVALID", "not a JSON object");
  return spec;
}

}  // namespace qamserve
