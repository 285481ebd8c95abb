#include "server/serving/constraint_cache.h"

namespace qamserve {

std::shared_ptr<const Constraint> ConstraintCache::Find(const ConstraintSpec& spec) {
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (entry->first != spec) continue;
    entries_.splice(entries_.begin(), entries_, entry);
    return entry->second;
  }
  return nullptr;
}

std::shared_ptr<const TokenTrie> ConstraintCache::Vocabulary() {
  absl::MutexLock lock(&vocabulary_mutex_);
  if (vocabulary_ == nullptr) vocabulary_ = TokenTrie::Create(tokenizer_);
  return vocabulary_;
}

absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCache::Get(const ConstraintSpec& spec) {
  {
    absl::MutexLock lock(&mutex_);
    if (std::shared_ptr<const Constraint> found = Find(spec)) return found;
  }
  // Without the lock: another request's constraint need not wait for this one.
  ASSIGN_OR_RETURN(std::shared_ptr<const Constraint> compiled, Constraint::Compile(spec, Vocabulary()));
  absl::MutexLock lock(&mutex_);
  if (std::shared_ptr<const Constraint> found = Find(spec)) return found;
  entries_.emplace_front(spec, compiled);
  if (entries_.size() > kMaxKeptConstraints) entries_.pop_back();
  return compiled;
}

}  // namespace qamserve
