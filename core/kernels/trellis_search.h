// Finds the codes of a trellis-coded strip: the Viterbi algorithm (Forney 1973) over all 2^16 states.
//
// A ring of 32 rows is searched twice: once freely, over the rows around the seam, which fixes the state at the seam;
// then once around with that state at both ends. Costs are exact integers, so every instruction set finds the same
// path.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/codec/trellis.h"
#include "core/kernels/kernels.h"

namespace qamserve {

// The points of all states in the order in which a step reads them. Immutable: may be shared by threads.
class TrellisTable {
 public:
  // REQUIRES: kMinTrellisPairBits <= pair_bits <= kMaxTrellisPairBits.
  explicit TrellisTable(int pair_bits);
  int pair_bits() const { return pair_bits_; }

 private:
  friend class TrellisSearch;
  // States that agree in their low 16 - b bits have the same successors: a group. A step finds, for every group, the
  // cheapest of the 2^b states in it. Groups are taken kLanes at a time (a block), states of a block in `items` rounds.
  static constexpr int kLanes = kTrellisLanes;
  static constexpr int kMaxItems = 1024;
  uint32_t StateOf(int block, int item, int lane) const;
  uint32_t GroupOf(int block, int lane) const;
  uint32_t TopOf(int block, int item) const;

  int pair_bits_;
  int groups_;  // 2^(16 - b)
  int blocks_;
  int items_;
  int share_;                    // blocks with the same costs
  std::vector<uint16_t> before_;  // [blocks / share][items]: the group before the state
  std::vector<int32_t> points_;   // [block][item][lane]
};

// One thread's searches over a table, which must outlive it.
class TrellisSearch {
 public:
  TrellisSearch(const TrellisTable& table, const Kernels& kernels);
  // Codes of 32 pairs whose targets are x[r], y[r] in units of TrellisStep, one below the other.
  void Encode(const float* x, const float* y, uint16_t* codes);

 private:
  void Step(int32_t target, uint16_t* from);
  // Runs over rows `first`, first + 1, ... (mod 32); states[i] is that of the i-th. `start`: group before the first row
  // and after the last, or -1.
  void Run(int first, int count, int start, uint32_t* states);

  const TrellisTable& table_;
  const Kernels& kernels_;
  int32_t targets_[kTileRows] = {};
  std::vector<uint32_t> cost_;   // [groups], least is 0
  std::vector<uint32_t> entry_;  // [blocks / share][items]: cost << 10 | item
  std::vector<uint32_t> best_;   // [blocks][lanes]
  std::vector<uint16_t> from_;   // [rows][groups]: the top b bits of the cheapest state of the group
};

}  // namespace qamserve
