// Steps that come again, kept as graphs, which are queued by one call, and queued as they are where there is no graph.
// Who makes and queues graphs is given, so that tests run this without a GPU.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <map>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

// Graphs kept at a time. Batches change all the time; a server has a few dozen that come back.
inline constexpr int64_t kMostGraphs = 64;

// `Graph` owns a graph as a pointer does; null is none. Used by one thread at a time.
template <typename Graph>
class GraphCache {
 public:
  // Does what `queue` queues. When a key is new it does just that, as a step that comes once is not worth a graph. From
  // then on it is `launch(graph)`, of what `record(queue, graph)` has made when the key came for the second time. If
  // that failed the step is queued as it is, then and whenever it comes again while its key is kept: what is missing,
  // such as memory, would be missing the next time, and each try costs more than the step.
  template <typename Record, typename Launch>
  absl::Status Repeat(const std::vector<int64_t>& key, absl::FunctionRef<absl::Status()> queue, const Record& record,
                      const Launch& launch) {
    if (static_cast<int64_t>(entries_.size()) >= kMostGraphs && !entries_.contains(key)) MakeRoom();
    const auto [it, is_new] = entries_.try_emplace(key);
    Entry& entry = it->second;
    if (is_new || entry.refused) return queue();
    if (entry.graph == nullptr && !record(queue, entry.graph).ok()) {
      entry.graph = nullptr;
      entry.refused = true;
      ++refused_;
      return queue();
    }
    return launch(entry.graph);
  }

  // How often a graph could not be made.
  int64_t refused() const { return refused_; }

 private:
  // What was refused is not to be tried again, as long as other things can go.
  void MakeRoom() {
    std::erase_if(entries_, [](const auto& entry) { return !entry.second.refused; });
    if (static_cast<int64_t>(entries_.size()) >= kMostGraphs / 2) entries_.clear();
  }

  struct Entry {
    Graph graph = nullptr;
    bool refused = false;
  };
  std::map<std::vector<int64_t>, Entry> entries_;
  int64_t refused_ = 0;
};

}  // namespace qamserve
