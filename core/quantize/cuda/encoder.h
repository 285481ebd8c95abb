// Quantizes the rows of one tensor on a GPU: what EncodeStrip (core/quantize/strip.h) does for a strip, for a panel of
// many strips at once, with the same bits in codes, norms and outcomes. Start here for core/quantize/cuda.
//
// Why the bits are the same: every float operation is the CPU's, in its order; see row_bodies.h. What each thread does
// is written for host and device alike (the *_bodies.h), and so is the order of the steps (encode_sequence.h): tests
// run both on any machine against the CPU. Nothing of it has run on a GPU yet.
//
// The folder is a library of its own beside core/quantize, which does not know it. Without a CUDA compiler, functions
// answer UNIMPLEMENTED (CUDA_NOT_BUILT).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/base/status.h"
#include "core/codec/rotation.h"
#include "core/codec/tensor_format.h"
#include "core/kernels/cuda/buffer.h"
#include "core/quantize/cuda/factor.h"
#include "core/quantize/strip.h"

namespace qamserve {

// Whether there is a GPU coder for a format: codebooks and trellises, not 8-bit weights.
bool CudaEncodes(const TensorFormat& format);

// As StripContext, but for the tables, which are made from the format. Spans are empty where there is nothing.
struct CudaEncodeContext {
  TensorFormat format;
  const Rotation& rotation;
  std::span<const float> scale;
  std::span<const double> mean_square;
  const CudaFactor* feedback = nullptr;
};

// One tensor's coder. Used by one thread at a time, as its stream; holds the device memory of one panel.
class CudaEncoder {
 public:
  // For panels of at most `panel_rows` rows. `context.feedback` must outlive the encoder. REQUIRES:
  // CudaEncodes(format); an even number of columns for trellises and with feedback. RESOURCE_EXHAUSTED (CUDA_MEMORY),
  // FAILED_PRECONDITION (CUDA_SHARED_MEMORY: trellises need 35 to 163 KiB), INTERNAL (CUDA_ERROR).
  static absl::StatusOr<CudaEncoder> Create(const CudaEncodeContext& context, int64_t panel_rows,
                                            const CudaStream& stream);
  CudaEncoder(CudaEncoder&&) noexcept;
  CudaEncoder& operator=(CudaEncoder&&) noexcept;
  ~CudaEncoder();

  // `rows`: [count][cols] weights. `norms` gets count binary16 norms, `packed` the strips' codes, `outcomes` what each
  // strip adds to its tensor's totals. Returns when they are there. INVALID_ARGUMENT (TENSOR_RANGE) names the row,
  // counted within the panel, whose norm does not fit.
  absl::Status Encode(std::span<const float> rows, std::span<uint16_t> norms, std::span<uint8_t> packed,
                      std::span<StripOutcome> outcomes);

 private:
  struct State;
  explicit CudaEncoder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace qamserve
