// Prints answers drawn at random under JSON schemas, for check_constraints.py: one JSON object a line, {"schema":
// number, "answer": text}. Tokens are drawn evenly among those that are allowed, but every third is one that closes
// something, so that answers end; those that do not within 600 tokens are left out. Usage: constrain_main MODEL SCHEMAS
// ANSWERS MODEL is a GGUF file or a Hugging Face directory; SCHEMAS has a JSON schema on each line; ANSWERS is how many
// to draw for each.
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/constraint/constraint.h"

namespace qamserve {
namespace {

constexpr int kMaxTokens = 600;

absl::StatusOr<bool> Draw(const std::shared_ptr<const Constraint>& constraint, uint64_t seed, std::string& text) {
  const TokenTrie& trie = constraint->vocabulary();
  ConstraintMatcher matcher(constraint);
  Rng rng(seed);
  for (int step = 0; step < kMaxTokens; ++step) {
    if (matcher.IsOver()) return true;
    std::vector<float> logits(static_cast<size_t>(trie.size()), 0.0f);
    ASSIGN_OR_RETURN(const bool goes_on, matcher.Allow(logits));
    if (!goes_on) return true;
    std::vector<int32_t> allowed, closing;
    for (int32_t token = 0; token < trie.size(); ++token) {
      if (logits[static_cast<size_t>(token)] != 0) continue;
      allowed.push_back(token);
      const std::string_view bytes = trie.bytes(token);
      if (bytes.empty() || bytes.find_first_of("\"]},") != std::string_view::npos) closing.push_back(token);
    }
    const std::vector<int32_t>& from = !closing.empty() && rng.NextU64() % 3 == 0 ? closing : allowed;
    const int32_t token = from[rng.NextU64() % from.size()];
    if (trie.bytes(token).empty()) return true;  // it ends the answer
    RETURN_IF_ERROR(matcher.Accept(token));
    text += trie.bytes(token);
  }
  return false;
}

absl::Status Run(const std::string& model, const std::string& schemas, int answers) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(model));
  ASSIGN_OR_RETURN(const TokenizerFiles texts, ReadTokenizerFiles(files));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, Tokenizer::Create(texts, model));
  const std::shared_ptr<const TokenTrie> trie = TokenTrie::Create(tokenizer);
  std::ifstream in(schemas);
  std::string schema;
  for (int number = 0; std::getline(in, schema); ++number) {
    const auto constraint = Constraint::Compile({ConstraintKind::kJsonSchema, schema}, trie);
    if (!constraint.ok()) return Annotate(constraint.status(), fmt::format("schema {}", number));
    for (int i = 0; i < answers; ++i) {
      std::string text;
      ASSIGN_OR_RETURN(const bool ended, Draw(*constraint, static_cast<uint64_t>(i), text));
      if (ended) std::puts(nlohmann::json({{"schema", number}, {"answer", text}}).dump().c_str());
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  if (argc != 4) return std::fputs("usage: constrain_main MODEL SCHEMAS ANSWERS\n", stderr), 2;
  const absl::Status status = qamserve::Run(argv[1], argv[2], std::atoi(argv[3]));
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", qamserve::MessageOf(status).c_str());
  return 1;
}
