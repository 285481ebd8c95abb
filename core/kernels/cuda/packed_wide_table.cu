#include "core/kernels/cuda/packed_wide_kernel.cuh"

namespace qamserve {

PackedWideQueue TablePackedWideQueue(int pair_bits) {
  switch (pair_bits) {
    case 5:
      return WideQueueOf<TableDecoder<5>>();
    case 6:
      return WideQueueOf<TableDecoder<6>>();
    case 7:
      return WideQueueOf<TableDecoder<7>>();
    case 8:
      return WideQueueOf<TableDecoder<8>>();
    case 9:
      return WideQueueOf<TableDecoder<9>>();
    case 10:
      return WideQueueOf<TableDecoder<10>>();
    case 11:
      return WideQueueOf<TableDecoder<11>>();
    default:
      return WideQueueOf<TableDecoder<12>>();
  }
}

}  // namespace qamserve
