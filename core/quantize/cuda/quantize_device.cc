#include "core/quantize/cuda/quantize_device.h"

#include <mutex>
#include <optional>
#include <utility>

#include "core/quantize/cuda/encoder.h"
#include "core/quantize/cuda/input_sums.h"

namespace qamserve {
namespace {

// Streams are behind pointers: what is made on one keeps a reference to it.
using StreamPointer = std::unique_ptr<const CudaStream>;

absl::StatusOr<StreamPointer> MakeStream(int device) {
  ASSIGN_OR_RETURN(CudaStream stream, CudaStream::Create(device));
  return std::make_unique<const CudaStream>(std::move(stream));
}

class Coder : public DeviceCoder {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceCoder>> Create(const DeviceTensor& tensor, int device,
                                                             std::unique_lock<std::mutex> turn) {
    std::unique_ptr<Coder> coder(new Coder(std::move(turn)));
    ASSIGN_OR_RETURN(coder->stream_, MakeStream(device));
    const CudaStream& stream = *coder->stream_;
    if (!tensor.outer.empty()) {
      ASSIGN_OR_RETURN(coder->factor_,
                       CudaFactor::Create(tensor.group, tensor.outer, tensor.scale, tensor.rotation, stream));
    }
    coder->panel_rows_ = PanelRows(tensor.rows, tensor.rotation.size());
    ASSIGN_OR_RETURN(coder->encoder_,
                     CudaEncoder::Create({tensor.format, tensor.rotation, tensor.scale, tensor.mean_square,
                                          coder->factor_ ? &*coder->factor_ : nullptr},
                                         coder->panel_rows_, stream));
    return coder;
  }

  int64_t panel_rows() const override { return panel_rows_; }
  absl::Status Encode(std::span<const float> rows, std::span<uint16_t> norms, std::span<uint8_t> packed,
                      std::span<StripOutcome> outcomes) override {
    return encoder_->Encode(rows, norms, packed, outcomes);
  }

 private:
  explicit Coder(std::unique_lock<std::mutex> turn) : turn_(std::move(turn)) {}
  std::unique_lock<std::mutex> turn_;  // given back last
  StreamPointer stream_;
  std::optional<CudaFactor> factor_;
  int64_t panel_rows_ = 0;
  std::optional<CudaEncoder> encoder_;
};

class Sums : public DeviceInputSums {
 public:
  Sums(StreamPointer stream, CudaInputSums sums) : stream_(std::move(stream)), sums_(std::move(sums)) {}
  absl::Status Add(const float* x, int64_t tokens) override { return sums_.Add(x, tokens); }
  absl::StatusOr<InputSums> Read() override { return sums_.Read(); }

 private:
  StreamPointer stream_;
  CudaInputSums sums_;
};

class Device : public QuantizeDevice {
 public:
  explicit Device(int device) : device_(device) {}
  bool Encodes(const TensorFormat& format) const override { return CudaEncodes(format); }
  absl::StatusOr<std::unique_ptr<DeviceCoder>> MakeCoder(const DeviceTensor& tensor) override {
    return Coder::Create(tensor, device_, std::unique_lock(turn_));
  }
  absl::StatusOr<std::unique_ptr<DeviceInputSums>> MakeInputSums(int64_t cols, bool outer) override {
    ASSIGN_OR_RETURN(StreamPointer stream, MakeStream(device_));
    ASSIGN_OR_RETURN(CudaInputSums sums, CudaInputSums::Create(cols, outer, *stream));
    return std::make_unique<Sums>(std::move(stream), std::move(sums));
  }

 private:
  const int device_;
  std::mutex turn_;  // of the one coder
};

}  // namespace

absl::StatusOr<std::shared_ptr<QuantizeDevice>> OpenCudaQuantizeDevice(int device) {
  RETURN_IF_ERROR(CudaStream::Create(device).status());
  return std::make_shared<Device>(device);
}

}  // namespace qamserve
