// The arithmetic of inference as one table of functions per device and instruction set. Start here for core/kernels.
//
// Every function gives the same bits whatever the instruction set, the batch, or how callers split the work:
// * Float sums run in 8 lanes: lane i adds the products with k mod 8 == i in ascending k, each by one fused
// multiply-add
//   from zero; the lanes are then added as ((0+4)+(2+6)) + ((1+5)+(3+7)).
// * Packed products are exact integers over blocks of 512 columns, 8-bit products over blocks of 131072 (2048 with wide
//   activations); the blocks are added as floats in ascending order.
// * exp and what is made of it use one polynomial, never libm.
// Functions are pure and thread-safe; outputs must not overlap inputs unless said so. Pointers need no alignment.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qamserve {

enum class DenseType : uint8_t { kF32, kF16, kBF16 };

// Rows of a dense matrix, `stride` elements apart.
struct DenseRows {
  const void* data = nullptr;
  DenseType type = DenseType::kF32;
  int64_t stride = 0;
};

// y[t * y_stride + o] = sum_k x[t * x_stride + k] * w[o * w.stride + k], 0 <= t < tokens, 0 <= o < outs.
// k must be a multiple of 8. Moves outs * k weights once for up to 3 tokens, from cache after that.
struct DenseMatmulArgs {
  const float* x = nullptr;
  int64_t x_stride = 0;
  DenseRows w;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t tokens = 0;
  int64_t outs = 0;
  int64_t k = 0;
};

// A quantized linear layer as it lies on disk (core/codec/packing.h). Codes are looked up in a table or, without one,
// are those of the trellis (core/codec/trellis.h). A table has a codebook's form (core/codec/codebook.h): entries of
// codes that differ in the two sign bits only are the same magnitudes, negated; at most 127 up to 9 bits, else 255.
struct PackedMatrix {
  const uint8_t* codes = nullptr;    // PackedBytes(rows, cols, pair_bits)
  const float* row_scale = nullptr;  // [rows padded to 32]: row norm x step; 0 in the padding
  const int32_t* table = nullptr;    // [2^pair_bits]: signed int16 x (low half) and y of each code; null: trellis
  int pair_bits = 0;
  int64_t rows = 0;
  int64_t cols = 0;
};

// Rotated activations as integers: value = q x scale, |q| <= kMaxActivation.
struct PackedInput {
  const int16_t* q = nullptr;  // [tokens][stride], columns padded to 64 with 0
  int64_t stride = 0;
  const float* scale = nullptr;  // [tokens]
  int64_t tokens = 0;
};

// 510 (largest magnitude, of a trellis) x 8191 x 2 columns x 256 pairs = 2.139e9 fits int32, so a block of 512 columns
// cannot overflow.
inline constexpr int kMaxActivation = 8191;
inline constexpr int64_t kPackedBlockCols = 512;

// y[t * y_stride + r] = input.scale[t] * row_scale[r] * sum over columns, for rows [32 * strip_begin,
// min(rows, 32 * strip_end)). Reads each code once for all tokens of a group of 64. `scratch` holds
// kPackedScratchBytes.
struct PackedMatmulArgs {
  PackedMatrix w;
  PackedInput x;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t strip_begin = 0;
  int64_t strip_end = 0;
  void* scratch = nullptr;
};
inline constexpr int64_t kPackedTokenGroup = 64;
inline constexpr int64_t kPackedScratchBytes = 168 * 1024;  // what AMX wants; the others use up to 32

// One step of a trellis search (core/kernels/trellis_search.h): for every block k of kTrellisLanes lanes l, the least
// of entries[(k / share) * items + i] + |points[(k * items + i) * kTrellisLanes + l] - target|^2 over items i. Points
// and target are two int16 each, x in the low half; differences fit int16 and sums uint32.
struct TrellisStepArgs {
  const int32_t* points = nullptr;
  const uint32_t* entries = nullptr;
  int blocks = 0;
  int items = 0;
  int share = 0;
  int32_t target = 0;
  uint32_t* best = nullptr;  // [blocks][kTrellisLanes]
};
inline constexpr int kTrellisLanes = 32;

// A linear layer in 8 bits (core/codec/int8_packing.h). Any byte is a valid weight, -128 too.
struct Int8Matrix {
  const int8_t* data = nullptr;      // Int8Bytes(rows, cols)
  const float* row_scale = nullptr;  // [rows padded to 32]; 0 in the padding
  int64_t rows = 0;
  int64_t cols = 0;
};

// Activations in 8 bits: value = q x scale, |q| <= kMaxActivation8.
struct Int8Input {
  const int8_t* q = nullptr;  // [tokens][stride], columns padded to 64 with 0
  int64_t stride = 0;
  const float* scale = nullptr;  // [tokens]
  int64_t tokens = 0;
};

// 128 x 127 x 131072 = 2.13e9 fits int32; no layer that is known has more columns.
inline constexpr int kMaxActivation8 = 127;
inline constexpr int64_t kInt8BlockCols = 131072;

// y[t * y_stride + r] = input.scale[t] * row_scale[r] * sum over columns, for rows [32 * strip_begin,
// min(rows, 32 * strip_end)). Moves each weight once for up to 4 tokens, from cache after that.
struct Int8MatmulArgs {
  Int8Matrix w;
  Int8Input x;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t strip_begin = 0;
  int64_t strip_end = 0;
};

// 128 x 8191 x 2048 = 2.147e9 fits int32, by 426,000.
inline constexpr int64_t kInt8WideBlockCols = 2048;

// The same for 8-bit weights and the activations of packed layers: output heads, whose inputs are not smoothed for 8
// bits. Moves each weight once for up to 2 tokens, from cache after that.
struct Int8WideMatmulArgs {
  Int8Matrix w;
  PackedInput x;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t strip_begin = 0;
  int64_t strip_end = 0;
};

struct Kernels {
  std::string_view name;
  void (*dense_matmul)(const DenseMatmulArgs& args);
  void (*packed_matmul)(const PackedMatmulArgs& args);
  // q = round to nearest even of x / scale with scale = max |x| / kMaxActivation (or 0 for a zero row); writes
  // `padded` values, zeros from n on, and returns the scale.
  float (*quantize_input)(const float* x, int64_t n, int64_t padded, int16_t* q);
  // out = x * weight / sqrt(mean(x^2) + eps); n a multiple of 8; out may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  // In place over n (multiple of 8) scores: exp(s - max) / sum; entries of -infinity become 0. At least one is finite.
  void (*softmax)(float* scores, int64_t n);
  // gate <- silu(gate) * up, or tanh-GELU(gate) * up; n a multiple of 8.
  void (*silu_mul)(float* gate, const float* up, int64_t n);
  void (*gelu_mul)(float* gate, const float* up, int64_t n);
  // Converts n elements to float.
  void (*to_float)(const void* data, DenseType type, int64_t n, float* out);
  void (*trellis_step)(const TrellisStepArgs& args);
  void (*int8_matmul)(const Int8MatmulArgs& args);
  // As quantize_input, with kMaxActivation8.
  float (*quantize_input8)(const float* x, int64_t n, int64_t padded, int8_t* q);
  void (*int8_wide_matmul)(const Int8WideMatmulArgs& args);
  // weights[i] = 2^40 exp((logits[i] - largest) * inverse), rounded down (core/kernels/sampling_row.h), for logits of
  // at most `largest`, minus infinity among them; returns their sum. `weights` may be null.
  uint64_t (*sample_weights)(const float* logits, int64_t n, float largest, float inverse, uint64_t* weights);
};

// Built in always; the reference that others are tested against.
const Kernels& ScalarKernels();
// Null if this build or this machine has none. They need AVX2, FMA and F16C.
const Kernels* Avx2Kernels();
// The same, for machines with AVX-512 F, BW, DQ, VL, VBMI and VNNI as well (Ice Lake, Zen 4 and later).
const Kernels* Avx512Kernels();
// Those of AVX-512 with products of several tokens in tiles, for machines that have AMX for bytes (Sapphire Rapids and
// later).
const Kernels* AmxKernels();
// "scalar", "avx2", "avx512" or "amx"; null if it cannot run here.
const Kernels* KernelsByName(std::string_view name);
// Those that can run here: "scalar, avx2".
std::string KernelNames();
// Names the kernels to use, so that instruction sets can be compared; programs check it when they start.
inline constexpr char kKernelsVariable[] = "QAMSERVE_KERNELS";
// The fastest that this machine runs, or those that kKernelsVariable names. Ends the process if it names none of
// KernelNames().
const Kernels& BestKernels();

}  // namespace qamserve
