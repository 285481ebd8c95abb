// Which sequences take part in a step, with how many tokens, and whose memory goes when there is too little.
//
// * At most max_running sequences are in a step. Higher priorities go first; within one, whoever was served least:
//   service is counted in tokens, a newcomer begins with that of the least served one, so that nobody is overtaken for
//   ever. A sequence that waits takes the place of one of its priority that is quantum_tokens ahead, or of one of a
//   lower priority; that one keeps its memory and goes on later.
// * A sequence is admitted when the pool has blocks for all its tokens and one more for each other one that has blocks;
//   full blocks that the pool knows by name (prefix cache) are shared and not computed. What it says later is not
//   reserved: when the pool has no block for a next token, the youngest sequence of the lowest priority is preempted.
//   It gives its blocks back and is admitted again later; its tokens are kept and fed again, nothing is said twice.
// * prefill_tokens of a step go to the prompts of the highest priority, what these leave to those of the next. Within a
//   priority they are divided evenly, but no prompt gets less than a quarter of them: where there are too many for
//   that, those that came first go first. Otherwise prompts that come together would trickle, and all be ready late.
//
// What a sequence says does not depend on any of this. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "core/engine/sequence.h"
#include "core/model/kv_pool.h"

namespace qamserve {

struct SchedulerOptions {
  int32_t max_running = 16;
  int64_t prefill_tokens = 256;
  int64_t quantum_tokens = 512;
  int64_t draft_tokens = 0;  // guesses checked in one step of a sequence; 0 = none
  bool prefix_cache = true;
};

class Scheduler {
 public:
  struct Totals {
    int64_t preemptions = 0;
    int64_t prompt_tokens = 0;        // of sequences at their first admission
    int64_t prompt_tokens_found = 0;  // of these, found in the pool
  };

  // `pool` must outlive this and the sequences in it.
  Scheduler(const SchedulerOptions& options, KvPool& pool) : options_(options), pool_(pool) {}

  void Add(std::unique_ptr<Sequence> sequence);
  // Null if there is none.
  std::unique_ptr<Sequence> Remove(uint64_t id);
  // Those whose deadline is not after `now`.
  std::vector<std::unique_ptr<Sequence>> RemoveExpired(Sequence::Clock::time_point now);
  std::vector<std::unique_ptr<Sequence>> RemoveAll();

  // The sequences of the next step, each with what it is to be fed planned and room for it reserved. Without `admit`
  // none that has no blocks gets any. Sequences that the pool cannot hold although nobody else uses it go to
  // `hopeless`; the system has less memory than was promised.
  std::vector<Sequence*> Plan(bool admit, std::vector<std::unique_ptr<Sequence>>& hopeless);
  // After the step: names blocks that became full, so that others find them.
  void NameFullBlocks();

  bool empty() const { return batch_.empty() && ready_.empty(); }
  int32_t running() const { return static_cast<int32_t>(batch_.size()); }
  int32_t waiting() const { return static_cast<int32_t>(ready_.size()); }
  const Totals& totals() const { return totals_; }

 private:
  using Key = std::tuple<int64_t, int64_t, uint64_t>;  // priority negated, service, id: the first one goes first
  using Ready = std::map<Key, std::unique_ptr<Sequence>>;
  static Key KeyOf(const Sequence& sequence);

  int64_t LeastService(int32_t priority) const;
  void FillBatch(bool admit, std::vector<std::unique_ptr<Sequence>>& hopeless);
  bool HasPlaceFor(const Sequence& sequence) const;
  void MakePlace();
  bool Admit(Sequence& sequence);
  void ShareKnownBlocks(Sequence& sequence);
  int64_t Holders() const;
  // Preempts the youngest sequence of the lowest priority that has blocks, if its priority is below `below`.
  bool PreemptWorst(int64_t below);
  Sequence* WorstHolder() const;
  void PreemptOne(Sequence& sequence);
  void ReserveForStep(std::vector<std::unique_ptr<Sequence>>& hopeless);
  std::vector<Sequence*> PlanFeeds();
  void SharePrefill(std::vector<Sequence*> prompts, int64_t budget) const;

  const SchedulerOptions options_;
  KvPool& pool_;
  std::vector<std::unique_ptr<Sequence>> batch_;
  Ready ready_;  // not in the batch, with blocks (displaced) or without (waiting, preempted)
  Totals totals_;
};

}  // namespace qamserve
