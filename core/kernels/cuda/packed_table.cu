#include "core/kernels/cuda/packed_kernel.cuh"

namespace qamserve {

PackedQueue TablePackedQueue(int pair_bits, int tokens) {
  switch (pair_bits) {
    case 5:
      return PackedQueueOf<TableDecoder<5>>(tokens);
    case 6:
      return PackedQueueOf<TableDecoder<6>>(tokens);
    case 7:
      return PackedQueueOf<TableDecoder<7>>(tokens);
    case 8:
      return PackedQueueOf<TableDecoder<8>>(tokens);
    case 9:
      return PackedQueueOf<TableDecoder<9>>(tokens);
    case 10:
      return PackedQueueOf<TableDecoder<10>>(tokens);
    case 11:
      return PackedQueueOf<TableDecoder<11>>(tokens);
    default:
      return PackedQueueOf<TableDecoder<12>>(tokens);
  }
}

}  // namespace qamserve
