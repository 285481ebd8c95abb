// What keeps a chat template from taking the process with it. The engine runs a template for as long as it likes and
// with all the memory there is, and some values make it crash: circles, divisors of 0, lists that cannot be ordered.
// Templates come with uploaded checkpoints, so each rendering gets a budget, and every operation whose cost depends on
// its operands is checked against it beforehand. Internal to core/tokenizer; sees the engine's headers.
#pragma once

#include <jinja/runtime.h>

#include <cstdint>
#include <memory>
#include <string>

namespace qamserve {

// Of one rendering. Not thread-safe.
class TemplateBudget {
 public:
  // Ends the rendering by an exception if there is less left. `work` is about a nanosecond, `bytes` are made anew.
  void Spend(uint64_t work, uint64_t bytes = 0);
  // As if it were spent: `why` says what the template did.
  [[noreturn]] void Refuse(std::string why);
  // Empty while nothing was refused.
  const std::string& refusal() const { return refusal_; }

 private:
  // Prompts of long conversations take milliseconds; seconds are the most that a rendering may cost.
  uint64_t work_left_ = 3'000'000'000;
  uint64_t bytes_left_ = 256'000'000;
  std::string refusal_;
};

// Puts checks into the tree, once, after it was parsed. What it renders is the same as before. The tree then runs only
// in a context that has a budget.
void GuardTemplate(jinja::program& program);
void GiveBudget(jinja::context& context, std::shared_ptr<TemplateBudget> budget);

}  // namespace qamserve
