// Not measured yet. A pair takes 12.4 (8 bits) to 17.8 instructions, of which 4 are the products of the code and 2 the
// sums of its bytes: at 4 bits a weight an H200 can issue no more than 2.4 TB/s of codes, 50 % of its 4.8. What could
// be saved: the bytes of a state are an operand of the 8-bit matrix instruction as they are, with each activation four
// times, which needs neither their sum nor its conversion to half precision, and twice the matrix instructions.
#include "core/kernels/cuda/packed_kernel.cuh"

namespace qamserve {

PackedQueue TrellisPackedQueue(int pair_bits, int tokens) {
  switch (pair_bits) {
    case 5:
      return PackedQueueOf<TrellisDecoder<5>>(tokens);
    case 6:
      return PackedQueueOf<TrellisDecoder<6>>(tokens);
    case 7:
      return PackedQueueOf<TrellisDecoder<7>>(tokens);
    case 8:
      return PackedQueueOf<TrellisDecoder<8>>(tokens);
    case 9:
      return PackedQueueOf<TrellisDecoder<9>>(tokens);
    case 10:
      return PackedQueueOf<TrellisDecoder<10>>(tokens);
    default:
      return PackedQueueOf<TrellisDecoder<11>>(tokens);
  }
}

}  // namespace qamserve
