// The constraints that requests of one served model ask for, compiled once while they are in use or were used lately: a
// client sends the same schema with every request, and what its readers find out about tokens is kept with it.
// Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <list>
#include <memory>
#include <utility>

#include "core/constraint/constraint.h"

namespace qamserve {

// Each may keep some 16 MB.
inline constexpr size_t kMaxKeptConstraints = 16;

class ConstraintCache {
 public:
  explicit ConstraintCache(std::shared_ptr<const Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {}

  // The errors of Constraint::Compile. The first call takes some 0.1 s to order the vocabulary; a new constraint takes
  // milliseconds.
  absl::StatusOr<std::shared_ptr<const Constraint>> Get(const ConstraintSpec& spec);

 private:
  using Entry = std::pair<ConstraintSpec, std::shared_ptr<const Constraint>>;

  std::shared_ptr<const Constraint> Find(const ConstraintSpec& spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<const TokenTrie> Vocabulary();

  const std::shared_ptr<const Tokenizer> tokenizer_;
  absl::Mutex vocabulary_mutex_;  // held while the vocabulary is ordered: others want it, too
  std::shared_ptr<const TokenTrie> vocabulary_ ABSL_GUARDED_BY(vocabulary_mutex_);
  absl::Mutex mutex_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // the one used last comes first
};

}  // namespace qamserve
