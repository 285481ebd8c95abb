// From numbers to codes, one pair of columns of a strip at a time; the codecs behind one interface.
#pragma once

#include <cstdint>
#include <memory>

#include "core/codec/codebook.h"
#include "core/codec/packing.h"
#include "core/codec/tensor_format.h"
#include "core/kernels/trellis_search.h"

namespace qamserve {

// Used by one thread at a time.
class PairCoder {
 public:
  virtual ~PairCoder() = default;
  // codes[r] for the targets (x[r], y[r]) of 32 rows, in standard deviations; x and y become what the codes decode to.
  virtual void Encode(float* x, float* y, uint16_t* codes) = 0;
};

// What coders of one format share. Immutable; thread-safe.
class CoderTables {
 public:
  explicit CoderTables(const TensorFormat& format);
  const TensorFormat& format() const { return format_; }
  // Of codebook codecs, else null.
  const NearestPoint* nearest() const { return nearest_.get(); }
  // The tables must outlive the coder.
  std::unique_ptr<PairCoder> MakeCoder() const;

 private:
  TensorFormat format_;
  std::unique_ptr<const NearestPoint> nearest_;
  std::unique_ptr<const TrellisTable> trellis_;
};

}  // namespace qamserve
