#include "core/quantize/cuda/encoder.h"

#include <cuda_runtime_api.h>

#include <optional>
#include <type_traits>
#include <utility>

#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/runtime.h"
#include "core/quantize/cuda/outcomes.h"
#include "core/quantize/cuda/queue.h"
#include "core/quantize/cuda/tables.h"

namespace qamserve {

struct CudaEncoder::State {
  explicit State(const CudaStream& s) : stream(s), parts(s) {}

  // Device memory for a panel of `rows` rows, in one piece: the driver takes about as long for a large one as for a
  // small one.
  absl::Status Allocate(int64_t rows);
  // Gives the parts of a panel their places from `base` on; returns how many bytes they take.
  int64_t Place(char* base);
  // cudaMemcpyAsync and cudaMemsetAsync on the encoder's stream.
  template <typename T>
  absl::Status Download(const T* from, std::span<T> to) const {
    return CudaStatus(cudaMemcpyAsync(to.data(), from, to.size_bytes(), cudaMemcpyDeviceToHost, stream.handle()),
                      "copying what a panel became");
  }
  // Copies a panel in, queues its kernels and copies out what they make of it.
  absl::Status Queue(const EncodePanel& panel, std::span<const float> rows, std::span<uint16_t> norms,
                     std::span<uint8_t> packed, PanelMeasures& measures) const;
  absl::Status Zero(void* at, int64_t bytes) const {
    return CudaStatus(cudaMemsetAsync(at, 0, static_cast<size_t>(bytes), stream.handle()), "zeroing a panel");
  }

  const CudaStream& stream;
  CudaTables parts;
  EncodeTables tables;
  EncodePanel panel;  // of the most rows
  std::optional<CudaBuffer> memory;
};

absl::Status CudaEncoder::State::Allocate(int64_t rows) {
  panel.rows = rows;
  ASSIGN_OR_RETURN(memory, CudaBuffer::Allocate(Place(nullptr), stream));
  Place(memory->as<char>());
  return absl::OkStatus();
}

int64_t CudaEncoder::State::Place(char* base) {
  int64_t bytes = 0;
  const auto place = [&](int64_t count, auto*& part) {
    constexpr int64_t kAlignment = 256;  // of what the device allocates, too
    using T = std::remove_reference_t<decltype(*part)>;
    part = base == nullptr ? nullptr : reinterpret_cast<T*>(base + bytes);
    bytes += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  };
  const int64_t n = tables.rotation.cols, padded = panel.padded(), floats = padded * n;
  for (float** matrix : {&panel.weights, &panel.rotated, &panel.values, &panel.scratch}) place(floats, *matrix);
  if (tables.mean_square != nullptr) {
    for (double** terms : {&panel.error_terms, &panel.energy_terms}) place(floats, *terms);
    place(2 * panel.strips(), panel.weighted);
  }
  place(padded * ((n + 1) / 2), panel.codes);
  if (tables.factor != nullptr) place(padded * kFeedbackBlockCols, panel.sums);
  if (tables.factor != nullptr && tables.points.count == 0) {
    place(4 * padded, panel.target);
    place(padded, panel.found);
  }
  for (double** of_rows : {&panel.loss, &panel.energy, &panel.squared}) place(padded, *of_rows);
  place(padded, panel.norms);
  place(panel.strips() * StripBytes(n, tables.pair_bits), panel.packed);
  return bytes;
}

absl::Status CudaEncoder::State::Queue(const EncodePanel& panel, std::span<const float> rows, std::span<uint16_t> norms,
                                       std::span<uint8_t> packed, PanelMeasures& measures) const {
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(stream.device()), "choosing a device"));
  RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(panel.weights, rows.data(), rows.size_bytes(), cudaMemcpyHostToDevice, stream.handle()),
      "copying a panel"));
  RETURN_IF_ERROR(Zero(panel.packed, static_cast<int64_t>(packed.size())));
  RETURN_IF_ERROR(Zero(panel.loss, panel.padded() * static_cast<int64_t>(sizeof(double))));
  RETURN_IF_ERROR(CudaStatus(QueueEncode(tables, panel, stream.handle()), "queueing a panel"));
  RETURN_IF_ERROR(Download(panel.norms, norms));
  RETURN_IF_ERROR(Download(panel.packed, packed));
  RETURN_IF_ERROR(Download(panel.energy, std::span(measures.energy)));
  RETURN_IF_ERROR(Download(panel.squared, std::span(measures.squared)));
  if (tables.factor != nullptr) RETURN_IF_ERROR(Download(panel.loss, std::span(measures.loss)));
  if (tables.mean_square != nullptr) RETURN_IF_ERROR(Download(panel.weighted, std::span(measures.weighted)));
  return absl::OkStatus();
}

CudaEncoder::CudaEncoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
CudaEncoder::CudaEncoder(CudaEncoder&&) noexcept = default;
CudaEncoder& CudaEncoder::operator=(CudaEncoder&&) noexcept = default;
CudaEncoder::~CudaEncoder() = default;

absl::StatusOr<CudaEncoder> CudaEncoder::Create(const CudaEncodeContext& context, int64_t panel_rows,
                                                const CudaStream& stream) {
  if (context.format.codec == Codec::kTrellis) {
    const int64_t needed = TrellisBlockBytes(context.format.pair_bits);
    if (needed > stream.shared_bytes()) {
      return FailedPrecondition(
          "CUDA_SHARED_MEMORY",
          "a trellis search of {} bits a pair needs {} bytes of shared memory; device {} gives {}",
          context.format.pair_bits, needed, stream.device(), stream.shared_bytes());
    }
  }
  auto state = std::make_unique<State>(stream);
  ASSIGN_OR_RETURN(state->tables, state->parts.Add(context.format));
  ASSIGN_OR_RETURN(state->tables.rotation, state->parts.Add(context.rotation));
  ASSIGN_OR_RETURN(state->tables.scale, state->parts.Add(context.scale));
  ASSIGN_OR_RETURN(state->tables.mean_square, state->parts.Add(context.mean_square));
  if (context.feedback != nullptr) {
    state->tables.factor = context.feedback->rows().as<float>();
    state->tables.factor_weights = context.feedback->weights().as<double>();
  }
  RETURN_IF_ERROR(state->Allocate(panel_rows));
  return CudaEncoder(std::move(state));
}

absl::Status CudaEncoder::Encode(std::span<const float> rows, std::span<uint16_t> norms, std::span<uint8_t> packed,
                                 std::span<StripOutcome> outcomes) {
  State& s = *state_;
  EncodePanel panel = s.panel;
  panel.rows = static_cast<int64_t>(norms.size());
  if (panel.rows > s.panel.rows || outcomes.size() != static_cast<size_t>(panel.strips()) ||
      rows.size() != norms.size() * static_cast<size_t>(s.tables.rotation.cols) ||
      packed.size() != outcomes.size() * static_cast<size_t>(StripBytes(s.tables.rotation.cols, s.tables.pair_bits))) {
    return InvalidArgument("CUDA_PANEL", "a panel of {} rows has {} weights, {} bytes of codes, {} strips",
                           norms.size(), rows.size(), packed.size(), outcomes.size());
  }
  PanelMeasures measures(norms.size(), outcomes.size());
  const absl::Status queued = s.Queue(panel, rows, norms, packed, measures);
  // Waited for in any case: copies may be under way to memory that goes when this returns.
  const absl::Status done = s.stream.Wait();
  RETURN_IF_ERROR(queued);
  RETURN_IF_ERROR(done);
  return ToOutcomes(norms, measures, outcomes);
}

}  // namespace qamserve
