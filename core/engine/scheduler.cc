#include "core/engine/scheduler.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace qamserve {
namespace {

// Whether `a` must give way to `b` when both cannot stay: lower priority, then younger.
bool IsWorse(const Sequence& a, const Sequence& b) {
  return a.priority() != b.priority() ? a.priority() < b.priority() : a.id() > b.id();
}

// Whether `a` has had more than its share beside `b`: lower priority, then more service, then younger.
bool IsAhead(const Sequence& a, const Sequence& b) {
  if (a.priority() != b.priority()) return a.priority() < b.priority();
  return a.service() != b.service() ? a.service() > b.service() : a.id() > b.id();
}

template <typename Sequences>
auto MostAhead(const Sequences& batch) {
  return std::max_element(batch.begin(), batch.end(), [](const auto& a, const auto& b) { return IsAhead(*b, *a); });
}

}  // namespace

Scheduler::Key Scheduler::KeyOf(const Sequence& sequence) {
  return {-int64_t{sequence.priority()}, sequence.service(), sequence.id()};
}

int64_t Scheduler::LeastService(int32_t priority) const {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const auto& sequence : batch_) {
    if (sequence->priority() == priority) least = std::min(least, sequence->service());
  }
  const auto first = ready_.lower_bound({-int64_t{priority}, std::numeric_limits<int64_t>::min(), 0});
  if (first != ready_.end() && first->second->priority() == priority) least = std::min(least, first->second->service());
  return least == std::numeric_limits<int64_t>::max() ? 0 : least;
}

void Scheduler::Add(std::unique_ptr<Sequence> sequence) {
  sequence->BeginService(LeastService(sequence->priority()));
  const Key key = KeyOf(*sequence);
  ready_.emplace(key, std::move(sequence));
}

std::unique_ptr<Sequence> Scheduler::Remove(uint64_t id) {
  std::unique_ptr<Sequence> found;
  for (auto it = batch_.begin(); it != batch_.end() && found == nullptr; ++it) {
    if ((*it)->id() == id) {
      found = std::move(*it);
      batch_.erase(it);
      return found;
    }
  }
  for (auto it = ready_.begin(); it != ready_.end(); ++it) {
    if (it->second->id() == id) {
      found = std::move(it->second);
      ready_.erase(it);
      return found;
    }
  }
  return found;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::RemoveExpired(Sequence::Clock::time_point now) {
  std::vector<uint64_t> ids;
  const auto look = [&](const Sequence& sequence) {
    if (sequence.deadline().has_value() && *sequence.deadline() <= now) ids.push_back(sequence.id());
  };
  for (const auto& sequence : batch_) look(*sequence);
  for (const auto& [key, sequence] : ready_) look(*sequence);
  std::vector<std::unique_ptr<Sequence>> out;
  out.reserve(ids.size());
  for (const uint64_t id : ids) out.push_back(Remove(id));
  return out;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::RemoveAll() {
  std::vector<std::unique_ptr<Sequence>> out = std::exchange(batch_, {});
  for (auto& [key, sequence] : ready_) out.push_back(std::move(sequence));
  ready_.clear();
  return out;
}

std::vector<Sequence*> Scheduler::Plan(bool admit, std::vector<std::unique_ptr<Sequence>>& hopeless) {
  FillBatch(admit, hopeless);
  ReserveForStep(hopeless);
  return PlanFeeds();
}

// ---- Places ----

bool Scheduler::HasPlaceFor(const Sequence& sequence) const {
  if (batch_.size() < static_cast<size_t>(options_.max_running)) return true;
  const Sequence& worst = **MostAhead(batch_);
  if (worst.priority() != sequence.priority()) return worst.priority() < sequence.priority();
  return sequence.service() + options_.quantum_tokens <= worst.service();
}

void Scheduler::MakePlace() {
  if (batch_.size() < static_cast<size_t>(options_.max_running)) return;
  const auto worst = batch_.begin() + (MostAhead(batch_) - batch_.begin());
  const Key key = KeyOf(**worst);
  ready_.emplace(key, std::move(*worst));
  batch_.erase(worst);
}

// One that lacks memory is not overtaken by others that lack it too, or a long one might wait for ever; those that have
// theirs go on, which is what ends them and frees it.
void Scheduler::FillBatch(bool admit, std::vector<std::unique_ptr<Sequence>>& hopeless) {
  for (auto it = ready_.begin(); it != ready_.end() && HasPlaceFor(*it->second);) {
    Sequence& sequence = *it->second;
    if (!sequence.holds_blocks() && (!admit || !Admit(sequence))) {
      if (admit && pool_.used() == 0) {
        hopeless.push_back(std::move(it->second));
        it = ready_.erase(it);
        continue;
      }
      admit = false;
      ++it;
      continue;
    }
    MakePlace();
    batch_.push_back(std::move(it->second));
    it = ready_.erase(it);
  }
}

// ---- Memory ----

int64_t Scheduler::Holders() const {
  int64_t holders = 0;
  for (const auto& sequence : batch_) holders += sequence->holds_blocks() ? 1 : 0;
  for (const auto& [key, sequence] : ready_) holders += sequence->holds_blocks() ? 1 : 0;
  return holders;
}

// The last token must be fed in any case: its logits choose the next one.
void Scheduler::ShareKnownBlocks(Sequence& sequence) {
  if (!options_.prefix_cache) return;
  const int64_t full = (sequence.tokens() - 1) / pool_.layout().block_tokens();
  for (int64_t i = 0; i < full; ++i) {
    const KvPool::Block block = pool_.Find(sequence.BlockName(i));
    if (block == KvPool::kNone) return;
    sequence.cache().AppendShared(block);
  }
}

bool Scheduler::Admit(Sequence& sequence) {
  ShareKnownBlocks(sequence);
  KvCache& cache = sequence.cache();
  // Each of the others may need a block soon; without this the sequence might be preempted as soon as it has begun.
  const auto lacks = [&] {
    const int64_t others = Holders() - (sequence.holds_blocks() ? 1 : 0);
    return cache.MissingBlocks(sequence.tokens()) + others > pool_.available();
  };
  while (lacks() && PreemptWorst(sequence.priority())) {
  }
  const int64_t found = cache.length();
  if (lacks() || !cache.Reserve(sequence.tokens())) {
    cache.Clear();
    return false;
  }
  if (sequence.Admitted(found)) {
    totals_.prompt_tokens += sequence.tokens();
    totals_.prompt_tokens_found += found;
  }
  return true;
}

Sequence* Scheduler::WorstHolder() const {
  Sequence* worst = nullptr;
  const auto look = [&](Sequence& sequence) {
    if (sequence.holds_blocks() && (worst == nullptr || IsWorse(sequence, *worst))) worst = &sequence;
  };
  for (const auto& sequence : batch_) look(*sequence);
  for (const auto& [key, sequence] : ready_) look(*sequence);
  return worst;
}

bool Scheduler::PreemptWorst(int64_t below) {
  Sequence* worst = WorstHolder();
  if (worst == nullptr || worst->priority() >= below) return false;
  PreemptOne(*worst);
  return true;
}

void Scheduler::PreemptOne(Sequence& sequence) {
  sequence.Preempt();
  ++totals_.preemptions;
  for (auto it = batch_.begin(); it != batch_.end(); ++it) {
    if (it->get() != &sequence) continue;
    const Key key = KeyOf(sequence);
    ready_.emplace(key, std::move(*it));
    batch_.erase(it);
    return;
  }
}

void Scheduler::ReserveForStep(std::vector<std::unique_ptr<Sequence>>& hopeless) {
  std::vector<Sequence*> order;
  order.reserve(batch_.size());
  for (const auto& sequence : batch_) order.push_back(sequence.get());
  std::sort(order.begin(), order.end(), [](const Sequence* a, const Sequence* b) { return IsWorse(*b, *a); });
  for (Sequence* sequence : order) {
    // Without blocks it was preempted for one before it.
    while (sequence->holds_blocks() && !sequence->cache().Reserve(sequence->tokens())) {
      PreemptOne(*WorstHolder());  // which may be this one
    }
  }
  if (!batch_.empty() || pool_.used() > 0 || order.empty()) return;
  // The best of them was alone with the pool and did not fit.
  hopeless.push_back(Remove(order.front()->id()));
}

// ---- Tokens ----

std::vector<Sequence*> Scheduler::PlanFeeds() {
  std::vector<Sequence*> step, prompts;
  for (const auto& sequence : batch_) {
    step.push_back(sequence.get());
    if (sequence->unfed() > 1) {
      prompts.push_back(sequence.get());
      continue;
    }
    const int64_t draft = sequence->DraftLimit(options_.draft_tokens);
    // Guesses are not worth anybody's memory.
    if (draft > 0 && sequence->cache().Reserve(sequence->tokens() + draft)) {
      sequence->PlanDraft(draft);
    } else {
      sequence->PlanFeed(1);
    }
  }
  for (Sequence* prompt : prompts) prompt->PlanFeed(0);
  SharePrefill(std::move(prompts), options_.prefill_tokens);
  std::erase_if(step, [](const Sequence* sequence) { return sequence->feed().empty(); });
  return step;
}

void Scheduler::SharePrefill(std::vector<Sequence*> prompts, int64_t budget) const {
  const auto by = [](auto key) { return [key](const Sequence* a, const Sequence* b) { return key(*a) < key(*b); }; };
  std::sort(prompts.begin(), prompts.end(),
            by([](const Sequence& s) { return std::make_tuple(-int64_t{s.priority()}, s.id()); }));
  for (auto begin = prompts.begin(); begin != prompts.end() && budget > 0;) {
    const auto end = std::find_if(begin, prompts.end(),
                                  [&](const Sequence* other) { return other->priority() != (*begin)->priority(); });
    const int64_t most = std::max<int64_t>(1, budget / 4);
    int64_t wanted = 0;
    for (auto it = begin; it != end; ++it) wanted += std::min((*it)->unfed(), most);
    const bool few = wanted < budget;
    // Few share evenly, the shortest first, so that what these leave goes to the longer ones.
    if (few) std::sort(begin, end, by([](const Sequence& s) { return std::make_tuple(s.unfed(), s.id()); }));
    for (; begin != end; ++begin) {
      const int64_t share = few ? budget / (end - begin) : std::min(most, budget);
      const int64_t tokens = std::min((*begin)->unfed(), share);
      (*begin)->PlanFeed(tokens);
      budget -= tokens;
    }
  }
}

void Scheduler::NameFullBlocks() {
  if (!options_.prefix_cache) return;
  for (const auto& sequence : batch_) {
    const int64_t full = sequence->cache().length() / pool_.layout().block_tokens();
    for (int64_t i = sequence->cache().named(); i < full; ++i) sequence->cache().NameBlock(i, sequence->BlockName(i));
  }
}

}  // namespace qamserve
