#include "core/tokenizer/bpe.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <utility>

namespace qamserve {
namespace {

// A place in a piece that has no token. It merges with nothing and gives no id.
constexpr int32_t kBarrier = -1;
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
// Below this many symbols, scanning for the best pair beats a heap (words of English have 4 to 8).
constexpr size_t kShortPiece = 48;

absl::string_view AbslView(std::string_view s) { return {s.data(), s.size()}; }

uint64_t PairKey(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(TokenizerSpec& spec, const BpeOptions& options) {
  const Json* model = FindField(spec.root, "model");
  if (model == nullptr) return InvalidArgument("TOKENIZER_INVALID", "there is no \"model\"");
  const std::string type = TypeOf(*model);
  if (type != "BPE" && !(type.empty() && !spec.merges.empty())) {
    return Unimplemented("TOKENIZER_UNSUPPORTED", "model.type \"{}\"; only BPE is supported", type);
  }
  BpeModel bpe;
  bpe.options_ = options;
  RETURN_IF_ERROR(bpe.ReadOptions(*model));
  RETURN_IF_ERROR(bpe.AddVocab(spec));
  RETURN_IF_ERROR(bpe.AddMerges(spec));
  ASSIGN_OR_RETURN(const std::string unknown, StringField(*model, "unk_token", ""));
  if (!unknown.empty()) {
    bpe.unknown_ = bpe.Find(unknown);
    if (!bpe.unknown_)
      return InvalidArgument("TOKENIZER_INVALID", "model.unk_token \"{}\" is not in the vocabulary", unknown);
  }
  bpe.FindByteTokens();
  return bpe;
}

absl::Status BpeModel::ReadOptions(const Json& model) {
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, StringField(model, name, ""));
    if (!affix.empty()) return Unimplemented("TOKENIZER_UNSUPPORTED", "model.{} \"{}\"", name, affix);
  }
  const Json* dropout = FindField(model, "dropout");
  if (dropout != nullptr && *dropout != 0) return Unimplemented("TOKENIZER_UNSUPPORTED", "model.dropout");
  ASSIGN_OR_RETURN(byte_fallback_, BoolField(model, "byte_fallback", false));
  ASSIGN_OR_RETURN(fuse_unknown_, BoolField(model, "fuse_unk", false));
  ASSIGN_OR_RETURN(ignore_merges_, BoolField(model, "ignore_merges", false));
  return absl::OkStatus();
}

absl::Status BpeModel::AddVocab(TokenizerSpec& spec) {
  if (spec.vocab.empty()) return InvalidArgument("TOKENIZER_INVALID", "model.vocab is missing or empty");
  vocab_.reserve(spec.vocab.size());
  for (auto& [token, id] : spec.vocab) {
    const auto [at, added] = vocab_.try_emplace(std::move(token), id);
    if (!added) return InvalidArgument("TOKENIZER_INVALID", "model.vocab: token \"{}\" is there twice", at->first);
  }
  spec.vocab = {};
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerges(TokenizerSpec& spec) {
  merges_.reserve(spec.merges.size());
  uint32_t rank = 0;
  int32_t last = kBarrier;
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const auto& [left, right] = spec.merges[i];
    const std::optional<int32_t> l = Find(left);
    const std::optional<int32_t> r = Find(right);
    const std::optional<int32_t> joined = Find(left + right);
    if (!l || !r || !joined) {
      return InvalidArgument("TOKENIZER_INVALID", "model.merges: entry {} names \"{}\", which is not in the vocabulary",
                             i,
                             !l   ? left
                             : !r ? right
                                  : left + right);
    }
    if (!options_.gguf_rules || *joined != last) rank = static_cast<uint32_t>(i);
    last = *joined;
    merges_.insert_or_assign(PairKey(*l, *r), Merge{rank, *joined});
  }
  spec.merges = {};
  return absl::OkStatus();
}

void BpeModel::FindByteTokens() {
  byte_tokens_.fill(kBarrier);
  bool all = true;
  for (int byte = 0; byte < 256; ++byte) {
    const auto index = static_cast<uint8_t>(byte);
    const std::optional<int32_t> id =
        Find(options_.byte_level ? alphabet_.CharOf(index) : fmt::format("<0x{:02X}>", byte));
    byte_tokens_[index] = id.value_or(kBarrier);
    all = all && id;
  }
  // The reference falls back to bytes only if every byte of the character has a token; published vocabularies have
  // all 256 or none.
  byte_fallback_ = byte_fallback_ && all && !options_.byte_level;
}

std::optional<int32_t> BpeModel::Find(std::string_view token) const {
  const auto found = vocab_.find(AbslView(token));
  if (found == vocab_.end()) return std::nullopt;
  return found->second;
}

void BpeModel::SplitUnknown(std::string_view character, std::vector<int32_t>& ids, bool& fused) const {
  if (byte_fallback_) {
    for (char c : character) ids.push_back(byte_tokens_[static_cast<unsigned char>(c)]);
    fused = false;
  } else if (unknown_) {
    if (!(fuse_unknown_ && fused)) ids.push_back(*unknown_);
    fused = true;
  } else if (options_.gguf_rules) {
    ids.push_back(kBarrier);
  }
}

void BpeModel::Split(std::string_view piece, std::vector<int32_t>& ids) const {
  bool fused = false;
  while (!piece.empty()) {
    const auto lead = static_cast<unsigned char>(piece[0]);
    const size_t length = options_.byte_level ? 1 : std::min(Utf8Length(lead), piece.size());
    const std::string_view character = piece.substr(0, length);
    piece.remove_prefix(length);
    const std::optional<int32_t> id =
        options_.byte_level ? std::optional<int32_t>(byte_tokens_[lead]) : Find(character);
    if (id && *id != kBarrier) {
      ids.push_back(*id);
      fused = false;
    } else {
      SplitUnknown(character, ids, fused);
    }
  }
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  if (left == kBarrier || right == kBarrier) return nullptr;
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BpeModel::MergeShort(std::vector<int32_t>& ids) const {
  std::array<Merge, kShortPiece> pairs;  // pairs[i] joins ids[i] and ids[i + 1]
  size_t n = ids.size();
  const auto look = [&](size_t i) {
    const Merge* merge = FindMerge(ids[i], ids[i + 1]);
    pairs[i] = merge != nullptr ? *merge : Merge{kNoRank, 0};
  };
  for (size_t i = 0; i + 1 < n; ++i) look(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    ids[best] = pairs[best].id;
    std::copy(ids.begin() + static_cast<ptrdiff_t>(best) + 2, ids.begin() + static_cast<ptrdiff_t>(n),
              ids.begin() + static_cast<ptrdiff_t>(best) + 1);
    std::copy(pairs.begin() + best + 1, pairs.begin() + n - 1, pairs.begin() + best);
    --n;
    if (best > 0) look(best - 1);
    if (best + 1 < n) look(best);
  }
  ids.resize(n);
}

void BpeModel::MergeLong(std::vector<int32_t>& ids) const {
  const auto n = static_cast<int32_t>(ids.size());
  std::vector<Symbol> symbols(ids.size());
  for (int32_t i = 0; i < n; ++i)
    symbols[static_cast<size_t>(i)] = {ids[static_cast<size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1};
  // (rank, place of the left half): the order in which pairs are joined. Entries go stale and are checked when taken.
  using Entry = std::pair<uint32_t, int32_t>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
  const auto find = [&](int32_t left) -> const Merge* {
    if (left < 0) return nullptr;
    const Symbol& symbol = symbols[static_cast<size_t>(left)];
    return symbol.next < 0 ? nullptr : FindMerge(symbol.id, symbols[static_cast<size_t>(symbol.next)].id);
  };
  const auto push = [&](int32_t left) {
    if (const Merge* merge = find(left); merge != nullptr) queue.emplace(merge->rank, left);
  };
  constexpr int32_t kGone = -2;
  for (int32_t i = 0; i + 1 < n; ++i) push(i);
  while (!queue.empty()) {
    const auto [rank, left] = queue.top();
    queue.pop();
    Symbol& symbol = symbols[static_cast<size_t>(left)];
    if (symbol.previous == kGone) continue;
    const Merge* merge = find(left);
    if (merge == nullptr || merge->rank != rank) continue;
    Symbol& right = symbols[static_cast<size_t>(symbol.next)];
    symbol.id = merge->id;
    symbol.next = right.next;
    right.previous = kGone;
    if (symbol.next >= 0) symbols[static_cast<size_t>(symbol.next)].previous = left;
    push(symbol.previous);
    push(left);
  }
  ids.clear();
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
    ids.push_back(symbols[static_cast<size_t>(i)].id);
}

void BpeModel::Encode(std::string_view piece, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    if (const std::optional<int32_t> id = Find(options_.byte_level ? alphabet_.Encode(piece) : std::string(piece));
        id) {
      out.push_back(*id);
      return;
    }
  }
  std::vector<int32_t> ids;
  ids.reserve(piece.size());
  Split(piece, ids);
  if (ids.size() > kShortPiece) {
    MergeLong(ids);
  } else {
    MergeShort(ids);
  }
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(out), [](int32_t id) { return id != kBarrier; });
}

}  // namespace qamserve
