#include "server/serving/alias.h"

#include <numeric>
#include <set>

#include "server/serving/served_name.h"

namespace qamserve {

absl::Status CheckAliasTargets(const std::vector<AliasTarget>& targets) {
  if (targets.empty() || targets.size() > kMaxAliasTargets) {
    return InvalidArgument("ALIAS_TARGETS", "targets of an alias must be 1 to {}; got {}", kMaxAliasTargets,
                           targets.size());
  }
  std::set<std::string_view> seen;
  bool any_weight = false;
  for (const AliasTarget& target : targets) {
    RETURN_IF_ERROR(CheckModelName(target.model));
    if (!seen.insert(target.model).second) {
      return InvalidArgument("ALIAS_TARGETS", "targets name model \"{}\" twice; each may be named once", target.model);
    }
    if (target.weight < 0 || target.weight > kMaxAliasWeight) {
      return InvalidArgument("ALIAS_WEIGHT", "weight of target \"{}\" must be 0 to {}; got {}", target.model,
                             kMaxAliasWeight, target.weight);
    }
    any_weight = any_weight || target.weight > 0;
  }
  if (any_weight) return absl::OkStatus();
  return InvalidArgument("ALIAS_WEIGHT", "at least one weight of an alias must be above 0; all {} are 0",
                         targets.size());
}

std::optional<size_t> PickByWeight(std::span<const int32_t> weights, Rng& rng) {
  const uint64_t sum = std::accumulate(weights.begin(), weights.end(), uint64_t{0});
  if (sum == 0) return std::nullopt;
  // The remainder favours low numbers by less than sum / 2^64: nobody can count that many requests.
  uint64_t left = rng.NextU64() % sum;
  size_t i = 0;
  while (left >= static_cast<uint64_t>(weights[i])) left -= static_cast<uint64_t>(weights[i++]);
  return i;
}

}  // namespace qamserve
