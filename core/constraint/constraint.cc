#include "core/constraint/constraint.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <algorithm>
#include <limits>

#include "core/constraint/choices.h"
#include "core/constraint/gbnf.h"
#include "core/constraint/json_schema.h"
#include "core/constraint/machine.h"
#include "core/constraint/pattern.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {

using constraint::Grammar;
using constraint::Machine;
using constraint::Program;
using constraint::Reading;

namespace {

// Fills `grammar`; the rule that it begins with.
absl::StatusOr<uint32_t> AddGrammar(const ConstraintSpec& spec, Grammar& grammar) {
  switch (spec.kind) {
    case ConstraintKind::kJsonObject:
      return constraint::AddJsonSchema(R"({"type": "object"})", grammar);
    case ConstraintKind::kJsonSchema:
      return constraint::AddJsonSchema(spec.text, grammar);
    case ConstraintKind::kRegex: {
      const uint32_t root = grammar.AddRule("the expression");
      ASSIGN_OR_RETURN(const Grammar::Node body, constraint::AddPattern(spec.text, grammar));
      grammar.SetRule(root, body);
      return root;
    }
    case ConstraintKind::kGrammar:
      return constraint::AddGbnf(spec.text, grammar);
    case ConstraintKind::kChoices:
      return constraint::AddChoices(spec.text, grammar);
  }
  return InvalidArgument("CONSTRAINT_INVALID", "the constraint is of no known kind");
}

// Names and pointers in a message may be as long as the text. The beginning tells the place, the end what is wrong.
absl::Status Shortened(const absl::Status& status) {
  constexpr size_t kBegin = 300, kEnd = 200;
  const std::string message = MessageOf(status);
  if (message.size() <= kBegin + kEnd) return status;
  const auto is_inside = [&](size_t at) { return (static_cast<unsigned char>(message[at]) & 0xC0) == 0x80; };
  size_t first = kBegin, last = message.size() - kEnd;
  while (first > 0 && is_inside(first)) --first;
  while (last < message.size() && is_inside(last)) ++last;
  return MakeError(status.code(), ReasonOf(status),
                   fmt::format("{} ... {}", message.substr(0, first), message.substr(last)));
}

absl::StatusOr<Program> CompileSpec(const ConstraintSpec& spec) {
  if (spec.text.size() > kMaxConstraintBytes) {
    return ResourceExhausted("CONSTRAINT_SIZE", "the constraint has {} bytes; the limit is {}", spec.text.size(),
                             kMaxConstraintBytes);
  }
  if (!IsRepairedUtf8(spec.text) || HasSurrogates(spec.text)) {
    return InvalidArgument("CONSTRAINT_INVALID", "the text of the constraint is not UTF-8");
  }
  Grammar grammar;
  const absl::StatusOr<uint32_t> root = AddGrammar(spec, grammar);
  // What a full grammar leads to is not the text's fault.
  RETURN_IF_ERROR(grammar.status());
  RETURN_IF_ERROR(root.status());
  return constraint::CompileProgram(grammar, *root);
}

}  // namespace

struct Constraint::Impl {
  Impl(Program compiled, std::shared_ptr<const TokenTrie> trie)
      : program(std::move(compiled)), vocabulary(std::move(trie)), machine(program, *vocabulary) {}

  const Program program;
  const std::shared_ptr<const TokenTrie> vocabulary;
  absl::Mutex mutex;
  Machine machine ABSL_GUARDED_BY(mutex);
};

struct ConstraintMatcher::State {
  absl::Status status;
  Reading reading;
  bool complete = false;
  bool over = false;
};

Constraint::Constraint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Constraint::~Constraint() = default;

absl::StatusOr<std::shared_ptr<const Constraint>> Constraint::Compile(const ConstraintSpec& spec,
                                                                      std::shared_ptr<const TokenTrie> vocabulary) {
  absl::StatusOr<Program> program = CompileSpec(spec);
  if (!program.ok()) return Shortened(program.status());
  std::shared_ptr<const Constraint> constraint(
      new Constraint(std::make_unique<Impl>(*std::move(program), std::move(vocabulary))));
  // A constraint whose very beginning is too ambiguous is refused here, not when it is first used.
  RETURN_IF_ERROR(ConstraintMatcher(constraint).state_->status);
  return constraint;
}

const TokenTrie& Constraint::vocabulary() const { return *impl_->vocabulary; }

absl::StatusOr<bool> Constraint::Matches(std::string_view text) const {
  absl::MutexLock lock(&impl_->mutex);
  ASSIGN_OR_RETURN(Reading reading, impl_->machine.Start());
  ASSIGN_OR_RETURN(const bool read, impl_->machine.Read(reading, text));
  return read && reading.may_end();
}

ConstraintMatcher::ConstraintMatcher(std::shared_ptr<const Constraint> constraint)
    : constraint_(std::move(constraint)), state_(std::make_unique<State>()) {
  Constraint::Impl& impl = *constraint_->impl_;
  absl::MutexLock lock(&impl.mutex);
  absl::StatusOr<Reading> reading = impl.machine.Start();
  state_->status = reading.status();
  if (!reading.ok()) return;
  state_->reading = std::move(*reading);
  state_->complete = state_->reading.may_end();
  state_->over = state_->complete && !state_->reading.may_go_on();
}

ConstraintMatcher::~ConstraintMatcher() {
  // The last reader of an old store frees it; a store is only looked at under the lock.
  if (state_ == nullptr) return;
  absl::MutexLock lock(&constraint_->impl_->mutex);
  state_.reset();
}

ConstraintMatcher::ConstraintMatcher(ConstraintMatcher&&) noexcept = default;

bool ConstraintMatcher::IsComplete() const { return state_->complete; }
bool ConstraintMatcher::IsOver() const { return state_->over; }

absl::StatusOr<bool> ConstraintMatcher::AllowedBits(size_t tokens, std::vector<uint64_t>& bits, bool ignore_eos) {
  RETURN_IF_ERROR(state_->status);
  std::shared_ptr<const constraint::AllowedTokens> allowed;
  {
    Constraint::Impl& impl = *constraint_->impl_;
    absl::MutexLock lock(&impl.mutex);
    absl::StatusOr<std::shared_ptr<const constraint::AllowedTokens>> found = impl.machine.Allowed(state_->reading);
    if (!found.ok()) return state_->status = found.status();
    allowed = std::move(*found);
  }
  // Rows of logits may be longer than the vocabulary, or shorter by special tokens.
  const size_t words = (tokens + 63) / 64;
  bits.assign(words, 0);
  std::copy_n(allowed->bits.begin(), std::min(words, allowed->bits.size()), bits.begin());
  bool stops = false;
  for (const int32_t stop : vocabulary_stops()) {
    const auto token = static_cast<size_t>(stop);
    if (token >= tokens || !state_->complete || ignore_eos) continue;
    bits[token / 64] |= uint64_t{1} << (token % 64);
    stops = true;
  }
  if (allowed->any || stops) return true;
  if (state_->complete) return false;
  return Internal("CONSTRAINT_DEAD_END", "no token of the vocabulary can go on from here to what the constraint wants");
}

absl::StatusOr<bool> ConstraintMatcher::Allow(std::span<float> logits, bool ignore_eos) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  std::vector<uint64_t> bits;
  ASSIGN_OR_RETURN(const bool goes_on, AllowedBits(logits.size(), bits, ignore_eos));
  for (size_t word = 0; word < bits.size(); ++word) {
    if (bits[word] == ~uint64_t{0}) continue;
    const size_t end = std::min(logits.size(), word * 64 + 64);
    for (size_t token = word * 64; token < end; ++token) {
      if ((bits[word] >> (token % 64) & 1) == 0) logits[token] = kNever;
    }
  }
  return goes_on;
}

std::span<const int32_t> ConstraintMatcher::vocabulary_stops() const {
  return constraint_->vocabulary().tokenizer().stop_ids();
}

absl::Status ConstraintMatcher::Accept(int32_t token) {
  RETURN_IF_ERROR(state_->status);
  const std::span<const int32_t> stops = vocabulary_stops();
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) return absl::OkStatus();
  const std::string_view bytes = constraint_->vocabulary().bytes(token);
  Constraint::Impl& impl = *constraint_->impl_;
  absl::MutexLock lock(&impl.mutex);
  const absl::StatusOr<bool> read = bytes.empty() ? false : impl.machine.Read(state_->reading, bytes);
  if (!read.ok()) return state_->status = read.status();
  if (!*read) return Internal("CONSTRAINT_TOKEN", "token {} cannot follow here", token);
  state_->complete = state_->reading.may_end();
  state_->over = state_->complete && !state_->reading.may_go_on();
  return absl::OkStatus();
}

}  // namespace qamserve
