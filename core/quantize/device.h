// A device that does the heavy parts of quantizing in place of the CPU: with the same bytes, so that which one it was
// is not part of a job's key and workers with and without one may share a job. core/quantize/cuda has one for GPUs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "core/base/status.h"
#include "core/codec/rotation.h"
#include "core/codec/tensor_format.h"
#include "core/quantize/input_sums.h"
#include "core/quantize/strip.h"

namespace qamserve {

// What the strips of a tensor share. Spans are empty where there is nothing; all must outlive what is made of them.
struct DeviceTensor {
  std::string_view group;  // for messages
  TensorFormat format;
  int64_t rows = 0;
  const Rotation& rotation;             // over the columns
  std::span<const float> scale;         // [cols]
  std::span<const double> mean_square;  // [cols]
  std::span<const float> outer;         // [cols][cols] mean outer products of the inputs, for error feedback
};

// Weights of a panel, of which the host holds 4 bytes each and a GPU 17 to 33: enough rows for every multiprocessor,
// within 2 GiB of a GPU. A panel has at least one strip.
inline constexpr int64_t kPanelWeights = int64_t{1} << 26;
// Rows of a panel of a tensor: a multiple of 32, or all of them.
int64_t PanelRows(int64_t rows, int64_t cols);

// Quantizes the rows of one tensor, a panel of strips after the other. Used by one thread at a time.
class DeviceCoder {
 public:
  virtual ~DeviceCoder() = default;
  // Rows that a panel may have: a multiple of 32, or all of the tensor's; at most PanelRows.
  virtual int64_t panel_rows() const = 0;
  // As EncodeStrip for each strip of `rows` [count][cols]: `norms` gets count norms, `packed` the strips' codes,
  // `outcomes` one for each strip. INVALID_ARGUMENT (TENSOR_RANGE) names the row, counted within the panel.
  virtual absl::Status Encode(std::span<const float> rows, std::span<uint16_t> norms, std::span<uint8_t> packed,
                              std::span<StripOutcome> outcomes) = 0;
};

// AddInputs for one group. Used by one thread at a time.
class DeviceInputSums {
 public:
  virtual ~DeviceInputSums() = default;
  // x [tokens][cols], in memory of the host.
  virtual absl::Status Add(const float* x, int64_t tokens) = 0;
  virtual absl::StatusOr<InputSums> Read() = 0;
};

// Thread-safe.
class QuantizeDevice {
 public:
  virtual ~QuantizeDevice() = default;
  // What it does not encode, the CPU does.
  virtual bool Encodes(const TensorFormat& format) const = 0;
  // REQUIRES: Encodes(tensor.format). Waits while another tensor's coder is alive, so that device memory is bounded by
  // one tensor, and the host's panels by one. STATISTICS_SINGULAR as ErrorFeedback::Create.
  virtual absl::StatusOr<std::unique_ptr<DeviceCoder>> MakeCoder(const DeviceTensor& tensor) = 0;
  virtual absl::StatusOr<std::unique_ptr<DeviceInputSums>> MakeInputSums(int64_t cols, bool outer) = 0;
};

}  // namespace qamserve
