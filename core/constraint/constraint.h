// What an answer must look like, and which tokens can still lead there. Start here for core/constraint.
//
// A JSON schema, a regular expression, a GBNF grammar or a list of choices becomes a grammar (grammar.h), that a
// program of states over bytes (program.h), and a machine runs the program over the tokens of a vocabulary (machine.h,
// token_trie.h). What a sampler takes only from the tokens that Allow leaves satisfies the constraint once it may end:
// by construction of the mask, not by a check afterwards. docs/structured_output.md says what is supported.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/constraint/token_trie.h"

namespace qamserve {

enum class ConstraintKind { kJsonObject, kJsonSchema, kRegex, kGrammar, kChoices };

struct ConstraintSpec {
  ConstraintKind kind = ConstraintKind::kJsonObject;
  // The schema; the expression, which the whole answer must match; the grammar in GBNF, beginning with rule "root"; a
  // JSON array of strings. Empty for kJsonObject.
  std::string text;

  bool operator==(const ConstraintSpec&) const = default;
};

// Of ConstraintSpec::text.
inline constexpr size_t kMaxConstraintBytes = size_t{128} << 10;

// Thread-safe. What readers have found out about the next tokens is kept (at most some 16 MB) and shared by all of
// them.
class Constraint {
 public:
  // INVALID_ARGUMENT (CONSTRAINT_INVALID) names the place (a JSON pointer, a byte of the text, a rule) of what is wrong
  // or not supported; RESOURCE_EXHAUSTED (CONSTRAINT_SIZE) names the limit. Takes milliseconds, at the limits of what
  // is accepted a second.
  static absl::StatusOr<std::shared_ptr<const Constraint>> Compile(const ConstraintSpec& spec,
                                                                   std::shared_ptr<const TokenTrie> vocabulary);
  ~Constraint();

  const TokenTrie& vocabulary() const;
  // Whether `text` is a whole answer. The errors of ConstraintMatcher.
  absl::StatusOr<bool> Matches(std::string_view text) const;

 private:
  friend class ConstraintMatcher;
  struct Impl;
  explicit Constraint(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

// One answer on its way. Not thread-safe; matchers of one constraint may be used by several threads.
class ConstraintMatcher {
 public:
  explicit ConstraintMatcher(std::shared_ptr<const Constraint> constraint);
  ~ConstraintMatcher();
  ConstraintMatcher(ConstraintMatcher&&) noexcept;
  ConstraintMatcher& operator=(ConstraintMatcher&&) = delete;

  // RESOURCE_EXHAUSTED (CONSTRAINT_SIZE) from any of these: the constraint can be read in too many ways here, or nests
  // too deeply. It stays so.

  // Sets the logits of all tokens that cannot come next to minus infinity. Tokens that end a generation can come where
  // the answer is complete, unless `ignore_eos`; other special tokens never. False if no token is left and the answer
  // is complete: it ends here. INTERNAL (CONSTRAINT_DEAD_END) if none is left and it is not: the vocabulary lacks what
  // the constraint wants.
  absl::StatusOr<bool> Allow(std::span<float> logits, bool ignore_eos = false);
  // The same as bits of `tokens` tokens: bit t % 64 of bits[t / 64] says whether token t can come next.
  absl::StatusOr<bool> AllowedBits(size_t tokens, std::vector<uint64_t>& bits, bool ignore_eos = false);
  // Goes on by a token that Allow left; one that ends a generation changes nothing. INTERNAL (CONSTRAINT_TOKEN) for
  // others.
  absl::Status Accept(int32_t token);
  // The answer is complete, though it may be able to go on.
  bool IsComplete() const;
  // The answer is complete and nothing can follow.
  bool IsOver() const;

 private:
  friend class Constraint;
  struct State;
  std::span<const int32_t> vocabulary_stops() const;

  const std::shared_ptr<const Constraint> constraint_;
  std::unique_ptr<State> state_;
};

}  // namespace qamserve
