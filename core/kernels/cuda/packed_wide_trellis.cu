#include "core/kernels/cuda/packed_wide_kernel.cuh"

namespace qamserve {

PackedWideQueue TrellisPackedWideQueue(int pair_bits) {
  switch (pair_bits) {
    case 5:
      return WideQueueOf<TrellisDecoder<5>>();
    case 6:
      return WideQueueOf<TrellisDecoder<6>>();
    case 7:
      return WideQueueOf<TrellisDecoder<7>>();
    case 8:
      return WideQueueOf<TrellisDecoder<8>>();
    case 9:
      return WideQueueOf<TrellisDecoder<9>>();
    case 10:
      return WideQueueOf<TrellisDecoder<10>>();
    default:
      return WideQueueOf<TrellisDecoder<11>>();
  }
}

}  // namespace qamserve
