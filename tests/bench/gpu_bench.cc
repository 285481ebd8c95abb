// How fast a GPU multiplies from packed codes and searches trellises. Prints one JSON object a line: the device, the
// read bandwidth of a kernel that does nothing else, then for each product gb_per_second of its codes and their
// fraction of that bandwidth, then weights_per_second of each search. Matrices are used in turn and are together
// several times the second-level cache, as the layers of a model are. The codec "full" is 16-bit weights through this
// engine's own dense kernel: what a ratio of a whole model to one of 16 bits has below the line. The layers of a model,
// and prompts, are gpu_layers_bench's.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/base/rng.h"
#include "core/codec/int8_packing.h"
#include "core/codec/tensor_format.h"
#include "core/codec/trellis.h"
#include "core/kernels/cuda/device.h"
#include "core/kernels/cuda/forward/forward_device.h"
#include "core/kernels/cuda/matmul.h"
#include "core/kernels/cuda/trellis_search.h"
#include "tests/bench/gpu_measure.h"

namespace qamserve {
namespace {

struct Options {
  int device = -1;
  int64_t rows = 28672;  // gate and up of a model of 8 G weights, 81 MB at 5.5 bits a weight
  int64_t cols = 4096;
  std::vector<int> tokens = {1, 8, 16};
  std::vector<int> table_bits = {6, 7, 8, 9, 10, 11};
  std::vector<int> trellis_bits = {6, 7, 8, 9};
  int64_t rings = 132 * 8 * 4;
  int repetitions = 5;
};

class Bench {
 public:
  static absl::Status Run(const Options& options, const CudaDevice& device) {
    ASSIGN_OR_RETURN(CudaStream stream, CudaStream::Create(device.ordinal));
    Bench bench(options, device, std::move(stream));
    RETURN_IF_ERROR(bench.Prepare());
    RETURN_IF_ERROR(bench.Read());
    for (int tokens : options.tokens) {
      for (int bits : options.table_bits) RETURN_IF_ERROR(bench.Packed({Codec::kJoint, bits}, tokens));
      for (int bits : options.trellis_bits) RETURN_IF_ERROR(bench.Packed({Codec::kTrellis, bits}, tokens));
      RETURN_IF_ERROR(bench.Bytes(tokens));
    }
    RETURN_IF_ERROR(bench.Dense());
    for (int bits : options.trellis_bits) RETURN_IF_ERROR(bench.Search(bits));
    return absl::OkStatus();
  }

 private:
  Bench(const Options& options, const CudaDevice& device, CudaStream stream)
      : options_(options), device_(device), stream_(std::move(stream)) {}

  static constexpr int64_t kMaxTokens = 64;

  static void Print(const nlohmann::json& line) {
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
  }

  absl::Status Add(std::vector<CudaBuffer>& to, const std::vector<uint64_t>& words, int64_t bytes) {
    ASSIGN_OR_RETURN(CudaBuffer buffer, CudaBuffer::Allocate(bytes, stream_));
    RETURN_IF_ERROR(buffer.Upload(words.data(), bytes, stream_));
    to.push_back(std::move(buffer));
    return stream_.Wait();
  }

  // Random weights of the largest kind, as often as it takes to pass the cache by four times.
  absl::Status Prepare() {
    weight_bytes_ = Int8Bytes(options_.rows, options_.cols);
    const int64_t copies = 1 + (4 * device_.l2_bytes + weight_bytes_ - 1) / weight_bytes_;
    Rng rng(1);
    std::vector<uint64_t> words(static_cast<size_t>(weight_bytes_) / 8);
    for (uint64_t& word : words) word = rng.NextU64();
    for (int64_t i = 0; i < copies; ++i) RETURN_IF_ERROR(Add(weights_, words, weight_bytes_));
    // Activations of any sign, at most 13 bits; as bytes they may be anything.
    for (uint64_t& word : words) word &= 0x8fff8fff8fff8fffu;
    for (uint64_t& word : words)
      word ^= (word & 0x8000800080008000u) >> 1 | (word & 0x8000800080008000u) >> 2 | (word & 0x8000800080008000u) >> 3;
    const int64_t padded = PaddedCols(options_.cols), padded_rows = StripsDown(options_.rows) * kTileRows;
    RETURN_IF_ERROR(Add(rest_, words, kMaxTokens * padded * 2));
    std::vector<float> ones(static_cast<size_t>(padded_rows + kMaxTokens), 1.0f);
    ASSIGN_OR_RETURN(CudaBuffer scales, CudaBuffer::Allocate(static_cast<int64_t>(ones.size() * 4), stream_));
    RETURN_IF_ERROR(scales.Upload(ones.data(), scales.bytes(), stream_));
    RETURN_IF_ERROR(stream_.Wait());
    rest_.push_back(std::move(scales));
    for (int64_t bytes :
         {kMaxTokens * options_.rows * 4, CudaPackedScratchBytes(options_.cols, kMaxTokens), int64_t{1} << 14}) {
      ASSIGN_OR_RETURN(CudaBuffer buffer, CudaBuffer::Allocate(bytes, stream_));
      rest_.push_back(std::move(buffer));
    }
    return absl::OkStatus();
  }

  // Seconds of one call of queue(buffer), in turn over all buffers.
  absl::StatusOr<double> Time(const std::function<absl::Status(const CudaBuffer&)>& queue) {
    ASSIGN_OR_RETURN(const double seconds, TimeOnGpu(stream_, options_.repetitions, [&]() -> absl::Status {
                       for (const CudaBuffer& buffer : weights_) RETURN_IF_ERROR(queue(buffer));
                       return absl::OkStatus();
                     }));
    return seconds / static_cast<double>(weights_.size());
  }

  absl::Status Read() {
    ASSIGN_OR_RETURN(read_, MeasureGpuRead(stream_));
    Print({{"kind", "read"}, {"device", device_.name}, {"gb_per_second", read_ / 1e9}});
    return absl::OkStatus();
  }

  void PrintProduct(nlohmann::json line, int64_t bytes, double seconds) const {
    const double rate = static_cast<double>(bytes) / seconds;
    line.update({{"kind", "product"},
                 {"rows", options_.rows},
                 {"cols", options_.cols},
                 {"microseconds", seconds * 1e6},
                 {"gb_per_second", rate / 1e9},
                 {"read_fraction", rate / read_}});
    Print(line);
  }

  absl::Status Packed(const TensorFormat& format, int tokens) {
    const std::vector<int32_t> table = DecodeTable(format);
    const int64_t table_bytes = static_cast<int64_t>(table.size() * sizeof(int32_t));
    const CudaBuffer& device_table = rest_[4];
    RETURN_IF_ERROR(device_table.Upload(table.data(), table_bytes, stream_));
    RETURN_IF_ERROR(stream_.Wait());
    PackedMatmulArgs args;
    args.w = {nullptr,          rest_[1].as<float>(), table.empty() ? nullptr : device_table.as<int32_t>(),
              format.pair_bits, options_.rows,        options_.cols};
    args.x = {rest_[0].as<int16_t>(), PaddedCols(options_.cols), rest_[1].as<float>(), tokens};
    args.y = rest_[2].as<float>();
    args.y_stride = options_.rows;
    args.strip_end = StripsDown(options_.rows);
    args.scratch = rest_[3].as<void>();
    ASSIGN_OR_RETURN(const double seconds, Time([&](const CudaBuffer& buffer) {
                       args.w.codes = buffer.as<uint8_t>();
                       return LaunchPackedMatmul(args, stream_);
                     }));
    PrintProduct({{"codec", std::string(CodecName(format.codec))}, {"pair_bits", format.pair_bits}, {"tokens", tokens}},
                 PackedBytes(options_.rows, options_.cols, format.pair_bits), seconds);
    return absl::OkStatus();
  }

  absl::Status Bytes(int tokens) {
    const Int8Input x{rest_[0].as<int8_t>(), PaddedCols(options_.cols), rest_[1].as<float>(), tokens};
    const PackedInput wide{rest_[0].as<int16_t>(), PaddedCols(options_.cols), rest_[1].as<float>(), tokens};
    const int64_t strips = StripsDown(options_.rows);
    for (int bits : {8, 14}) {
      ASSIGN_OR_RETURN(const double seconds, Time([&](const CudaBuffer& buffer) {
                         const Int8Matrix w{buffer.as<int8_t>(), rest_[1].as<float>(), options_.rows, options_.cols};
                         float* y = rest_[2].as<float>();
                         return bits == 8 ? LaunchInt8Matmul({w, x, y, options_.rows, 0, strips}, stream_)
                                          : LaunchInt8WideMatmul({w, wide, y, options_.rows, 0, strips}, stream_);
                       }));
      PrintProduct({{"codec", "int8"}, {"activation_bits", bits}, {"tokens", tokens}}, weight_bytes_, seconds);
    }
    return absl::OkStatus();
  }

  // 16-bit weights, through the interface that a model uses. Its stream is its own, so this machine's clock times it:
  // passes enough that queueing the first and waiting for the last do not show.
  absl::Status Dense() {
    ASSIGN_OR_RETURN(const std::unique_ptr<ForwardDevice> device, OpenCudaForwardDevice(device_.ordinal));
    const int64_t bytes = 2 * options_.rows * options_.cols;
    const int64_t copies = 1 + (4 * device_.l2_bytes + bytes - 1) / bytes;
    // Halves from 1/16 to 1/8, of both signs; the floats that two of them make are small, too.
    Rng rng(3);
    std::vector<uint64_t> words(static_cast<size_t>(bytes) / 8);
    for (uint64_t& word : words) word = (rng.NextU64() & 0x83ff83ff83ff83ffu) | 0x2c002c002c002c00u;
    std::vector<ForwardDevice::Memory> weights;
    for (int64_t i = 0; i < copies; ++i) {
      ASSIGN_OR_RETURN(ForwardDevice::Memory memory, device->Allocate(bytes));
      RETURN_IF_ERROR(device->Upload(memory.get(), words.data(), bytes));
      weights.push_back(std::move(memory));
    }
    ASSIGN_OR_RETURN(const ForwardDevice::Memory x, device->Allocate(kMaxTokens * options_.cols * 4));
    ASSIGN_OR_RETURN(const ForwardDevice::Memory y, device->Allocate(kMaxTokens * options_.rows * 4));
    RETURN_IF_ERROR(device->Upload(x.get(), words.data(), std::min(bytes, kMaxTokens * options_.cols * 4)));
    for (const int tokens : options_.tokens) {
      const DenseMatmulArgs args = {.x = static_cast<const float*>(x.get()),
                                    .x_stride = options_.cols,
                                    .w = {nullptr, DenseType::kF16, options_.cols},
                                    .y = static_cast<float*>(y.get()),
                                    .y_stride = options_.rows,
                                    .tokens = tokens,
                                    .outs = options_.rows,
                                    .k = options_.cols};
      ASSIGN_OR_RETURN(const double seconds, TimeDense(*device, weights, args));
      PrintProduct({{"codec", "full"}, {"pair_bits", 32}, {"tokens", tokens}}, bytes, seconds);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> TimeDense(ForwardDevice& device, const std::vector<ForwardDevice::Memory>& weights,
                                   DenseMatmulArgs args) const {
    constexpr int kPasses = 20;
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= options_.repetitions; ++i) {
      const auto start = std::chrono::steady_clock::now();
      for (int pass = 0; pass < kPasses; ++pass) {
        for (const ForwardDevice::Memory& memory : weights) {
          args.w.data = memory.get();
          RETURN_IF_ERROR(device.DenseMatmul(args));
        }
      }
      float waited_for = 0;
      RETURN_IF_ERROR(device.Download(&waited_for, args.y, sizeof(waited_for)));
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      if (i > 0) best = std::min(best, seconds.count());
    }
    return best / static_cast<double>(kPasses * weights.size());
  }

  absl::Status Search(int bits) {
    Rng rng(2);
    std::vector<float> targets(static_cast<size_t>(options_.rings) * kTileRows);
    for (float& v : targets) v = static_cast<float>(rng.NextGaussian()) / TrellisStep(bits);
    const auto bytes = static_cast<int64_t>(targets.size() * sizeof(float));
    ASSIGN_OR_RETURN(const CudaBuffer x, CudaBuffer::Allocate(bytes, stream_));
    ASSIGN_OR_RETURN(const CudaBuffer codes, CudaBuffer::Allocate(bytes / 2, stream_));
    RETURN_IF_ERROR(x.Upload(targets.data(), bytes, stream_));
    RETURN_IF_ERROR(stream_.Wait());
    // Both columns of a pair may have the same targets: the work is the same.
    ASSIGN_OR_RETURN(const double seconds, Time([&](const CudaBuffer&) {
                       return LaunchTrellisSearch(
                           {bits, options_.rings, x.as<float>(), x.as<float>(), codes.as<uint16_t>()}, stream_);
                     }));
    Print({{"kind", "trellis_search"},
           {"pair_bits", bits},
           {"rings", options_.rings},
           {"weights_per_second", static_cast<double>(2 * options_.rings * kTileRows) / seconds}});
    return absl::OkStatus();
  }

  const Options& options_;
  const CudaDevice& device_;
  CudaStream stream_;
  int64_t weight_bytes_ = 0;
  double read_ = 0;  // bytes a second
  std::vector<CudaBuffer> weights_;
  std::vector<CudaBuffer> rest_;  // activations, scales, results, scratch, table
};

absl::Status Main(const Options& options) {
  ASSIGN_OR_RETURN(const CudaPlatform platform, FindCudaDevices());
  for (const CudaDevice& device : platform.devices) {
    if (options.device < 0 || device.ordinal == options.device) return Bench::Run(options, device);
  }
  return NotFound("CUDA_DEVICE", "there is no usable GPU {}", options.device);
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  qamserve::Options options;
  CLI::App app("Measures products and trellis searches on a GPU.");
  app.add_option("--device", options.device, "The GPU's number (default: the first usable one)");
  app.add_option("--rows", options.rows)->check(CLI::Range(32, 1 << 20));
  app.add_option("--cols", options.cols)->check(CLI::Range(64, 1 << 17));
  app.add_option("--tokens", options.tokens, "Batches to measure")->check(CLI::Range(1, 64));
  app.add_option("--table-bits", options.table_bits, "Bits a pair of codebooks")->check(CLI::Range(5, 12));
  app.add_option("--trellis-bits", options.trellis_bits, "Bits a pair of trellises")->check(CLI::Range(5, 11));
  app.add_option("--rings", options.rings, "Rings that one search is given")->check(CLI::Range(1, 1 << 22));
  app.add_option("--repetitions", options.repetitions)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = qamserve::Main(options);
  if (status.ok()) return 0;
  // No driver, no device, too old a one: 77 is what test drivers take for skipped.
  const bool skipped = absl::IsFailedPrecondition(status);
  std::fprintf(stderr, "%s: %s\n", skipped ? "skipped, no GPU" : "error", qamserve::MessageOf(status).c_str());
  return skipped ? 77 : 1;
}
