// How fast a GPU goes through the products of a model of 7 G weights (Mistral 7B's shapes) from packed codes. Prints
// one JSON object a line:
//   read     what a kernel reads that does nothing else
//   chain    the seven products of each of some layers, one token, queued once as a graph and replayed, as a step of
//            decoding does: bytes of codes a second and their fraction of that bandwidth. The layers are together many
//            times the second-level cache.
//   cublas   the version of the libcublas that prompts are compared with
//   not_measured
//            in its place where there is none: what that leaves out, and why. The loader looks for it, LD_LIBRARY_PATH
//            included: a CUDA toolkit has it, and the Python package nvidia-cublas.
//   prefill  the products of one layer for the tokens of a prompt: weights x tokens (multiply-adds) a second, their
//            fraction of the nominal peak of the device's matrix units where that is known, what reading the codes
//            once a prompt comes to, and beside them cuBLAS's time for the same shapes in half precision with float
//            sums.
// Rotations, norms and attention are not part of either; activations in the order of the matrix instruction are.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <library_types.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/codec/packing.h"
#include "core/codec/tensor_format.h"
#include "core/kernels/cuda/device.h"
#include "core/kernels/cuda/matmul.h"
#include "core/kernels/cuda/runtime.h"
#include "tests/bench/gpu_measure.h"

namespace qamserve {
namespace {

struct Options {
  int device = -1;
  int layers = 4;  // 600 MB at 5.5 bits a weight
  std::vector<int> pair_bits = {11, 8};
  std::vector<int> prompts = {64, 128, 256, 384, 512, 1024, 2048};
  int repetitions = 5;
};

struct Product {
  const char* name;
  int64_t rows, cols;
  bool new_input;  // the one before had another
};
constexpr Product kProducts[] = {{"q", 4096, 4096, true},    {"k", 1024, 4096, false},    {"v", 1024, 4096, false},
                                 {"o", 4096, 4096, true},    {"gate", 14336, 4096, true}, {"up", 14336, 4096, false},
                                 {"down", 4096, 14336, true}};
constexpr int64_t kMostRows = 14336, kMostCols = 14336;

void Print(const nlohmann::json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

// Multiply-adds a second of halves with float sums that the matrix units do if the device runs at its highest clock,
// which it seldom does for long: 1024 a clock of each multiprocessor of an A100, 2048 of an H100. 0 for others.
double NominalPeak(const CudaDevice& device) {
  const double each = device.capability == 80 ? 1024 : device.capability == 90 ? 2048 : 0;
  int kilohertz = 0;
  if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, device.ordinal) != cudaSuccess) return 0;
  return each * device.multiprocessors * kilohertz * 1e3;
}

// libcublas by its own interface, loaded where it is: it is hundreds of megabytes that only this comparison wants.
class Cublas {
 public:
  // NOT_FOUND (CUBLAS) if there is none, in the loader's words.
  static absl::StatusOr<std::unique_ptr<Cublas>> Load() {
    std::string why;
    for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"}) {
      if (void* library = dlopen(name, RTLD_NOW)) return FromLibrary(library);
      why += std::string(why.empty() ? "" : "; ") + dlerror();
    }
    return NotFound("CUBLAS", "there is no libcublas to compare with ({})", why);
  }
  // 130200 for 13.2; 0 if it does not say.
  int version() const {
    int version = 0;
    return get_version_ != nullptr && get_version_(handle_, &version) == 0 ? version : 0;
  }
  absl::Status Open(const CudaStream& stream) {
    const bool ok = create_(&handle_) == 0 && set_stream_(handle_, stream.handle()) == 0;
    return ok ? absl::OkStatus() : Internal("CUBLAS", "cuBLAS does not start");
  }
  // y [tokens][rows] = x [tokens][cols] w', all in half precision, sums in float.
  absl::Status Multiply(const void* w, const void* x, void* y, int64_t rows, int64_t cols, int64_t tokens) const {
    constexpr int kTranspose = 1, kAsItIs = 0, kFloatSums = 68, kAnyAlgorithm = -1;  // of cublas_api.h
    const float one = 1, zero = 0;
    const int m = static_cast<int>(rows), n = static_cast<int>(tokens), k = static_cast<int>(cols);
    const int error = gemm_(handle_, kTranspose, kAsItIs, m, n, k, &one, w, CUDA_R_16F, k, x, CUDA_R_16F, k, &zero, y,
                            CUDA_R_16F, m, kFloatSums, kAnyAlgorithm);
    return error == 0 ? absl::OkStatus() : Internal("CUBLAS", "cublasGemmEx fails with status {}", error);
  }

 private:
  using Handle = void*;
  static absl::StatusOr<std::unique_ptr<Cublas>> FromLibrary(void* library) {
    auto loaded = std::make_unique<Cublas>();
    Cublas& out = *loaded;
    out.create_ = reinterpret_cast<decltype(out.create_)>(dlsym(library, "cublasCreate_v2"));
    out.set_stream_ = reinterpret_cast<decltype(out.set_stream_)>(dlsym(library, "cublasSetStream_v2"));
    out.gemm_ = reinterpret_cast<decltype(out.gemm_)>(dlsym(library, "cublasGemmEx"));
    out.get_version_ = reinterpret_cast<decltype(out.get_version_)>(dlsym(library, "cublasGetVersion_v2"));
    if (out.create_ == nullptr || out.set_stream_ == nullptr || out.gemm_ == nullptr) {
      return NotFound("CUBLAS", "libcublas has not the functions that are called");
    }
    return loaded;
  }
  int (*create_)(Handle*) = nullptr;
  int (*set_stream_)(Handle, cudaStream_t) = nullptr;
  int (*get_version_)(Handle, int*) = nullptr;
  int (*gemm_)(Handle, int, int, int, int, int, const void*, const void*, cudaDataType, int, const void*, cudaDataType,
               int, const void*, void*, cudaDataType, int, int, int) = nullptr;
  Handle handle_ = nullptr;  // the process ends with it
};

class Bench {
 public:
  static absl::Status Run(const Options& options, const CudaDevice& device) {
    ASSIGN_OR_RETURN(CudaStream stream, CudaStream::Create(device.ordinal));
    Bench bench(options, std::move(stream));
    bench.peak_ = NominalPeak(device);
    ASSIGN_OR_RETURN(bench.read_, MeasureGpuRead(bench.stream_));
    Print({{"kind", "read"}, {"device", device.name}, {"gb_per_second", bench.read_ / 1e9}});
    RETURN_IF_ERROR(bench.Prepare());
    for (const int pair_bits : options.pair_bits) {
      RETURN_IF_ERROR(bench.UseRate(pair_bits));
      RETURN_IF_ERROR(bench.Chain(pair_bits));
      for (const int tokens : options.prompts) RETURN_IF_ERROR(bench.Prefill(pair_bits, tokens));
    }
    return absl::OkStatus();
  }

 private:
  Bench(const Options& options, CudaStream stream) : options_(options), stream_(std::move(stream)) {}

  // `bytes` of random words, of which `mask` and `set` make numbers that are small.
  absl::StatusOr<CudaBuffer> Random(int64_t bytes, uint64_t mask, uint64_t set) {
    constexpr int64_t kPiece = int64_t{16} << 20;  // again and again: what is in it does not matter
    Rng rng(static_cast<uint64_t>(bytes) + 1);
    std::vector<uint64_t> words(static_cast<size_t>(std::min(bytes, kPiece) + 7) / 8);
    for (uint64_t& word : words) word = (rng.NextU64() & mask) | set;
    ASSIGN_OR_RETURN(CudaBuffer buffer, CudaBuffer::Allocate(bytes, stream_));
    for (int64_t at = 0; at < bytes; at += kPiece) {
      RETURN_IF_ERROR(CudaStatus(
          cudaMemcpyAsync(buffer.as<char>() + at, words.data(), static_cast<size_t>(std::min(kPiece, bytes - at)),
                          cudaMemcpyHostToDevice, stream_.handle()),
          "filling a buffer"));
    }
    RETURN_IF_ERROR(stream_.Wait());
    return buffer;
  }

  absl::Status Prepare() {
    const int64_t most = std::max(16, *std::max_element(options_.prompts.begin(), options_.prompts.end()));
    // Activations from 0 to 4095; scales of 2^-14.
    ASSIGN_OR_RETURN(CudaBuffer q, Random(most * kMostCols * 2, 0x0fff0fff0fff0fffu, 0));
    ASSIGN_OR_RETURN(CudaBuffer scale, Random((kMostRows + most) * 4, 0, 0x3880000038800000u));
    ASSIGN_OR_RETURN(CudaBuffer y, CudaBuffer::Allocate(most * kMostRows * 4, stream_));
    ASSIGN_OR_RETURN(CudaBuffer scratch, CudaBuffer::Allocate(CudaPackedScratchBytes(kMostCols, most), stream_));
    ASSIGN_OR_RETURN(CudaBuffer table, CudaBuffer::Allocate(4 << kMaxPairBits, stream_));
    buffers_ = std::make_unique<Buffers>(
        Buffers{std::move(q), std::move(scale), std::move(y), std::move(scratch), std::move(table)});
    absl::StatusOr<std::unique_ptr<Cublas>> cublas = Cublas::Load();
    if (!cublas.ok()) {
      const std::string why = MessageOf(cublas.status());
      Print({{"kind", "not_measured"}, {"what", "prompts beside cuBLAS"}, {"why", why}});
      std::fprintf(stderr, "not measured: prompts beside cuBLAS: %s\n", why.c_str());
      return absl::OkStatus();
    }
    cublas_ = *std::move(cublas);
    RETURN_IF_ERROR(cublas_->Open(stream_));
    Print({{"kind", "cublas"}, {"version", cublas_->version()}});
    for (const Product& p : kProducts) {
      // Halves from 1/16 to 1/8, of both signs.
      ASSIGN_OR_RETURN(CudaBuffer half, Random(p.rows * p.cols * 2, 0x83ff83ff83ff83ffu, 0x2c002c002c002c00u));
      halves_.push_back(std::move(half));
    }
    ASSIGN_OR_RETURN(CudaBuffer half_x, Random(most * kMostCols * 2, 0x83ff83ff83ff83ffu, 0x2c002c002c002c00u));
    halves_.push_back(std::move(half_x));
    return absl::OkStatus();
  }

  absl::Status UseRate(int pair_bits) {
    codes_.clear();
    for (int layer = 0; layer < options_.layers; ++layer) {
      for (const Product& p : kProducts) {
        ASSIGN_OR_RETURN(CudaBuffer codes, Random(PackedBytes(p.rows, p.cols, pair_bits), ~uint64_t{0}, 0));
        codes_.push_back(std::move(codes));
      }
    }
    const std::vector<int32_t> table = DecodeTable({Codec::kJoint, pair_bits});
    RETURN_IF_ERROR(
        buffers_->table.Upload(table.data(), static_cast<int64_t>(table.size() * sizeof(int32_t)), stream_));
    return stream_.Wait();
  }

  // The products of a layer, as CudaModel queues them.
  absl::Status QueueLayer(int layer, int pair_bits, int64_t tokens) {
    PackedFragments held;
    for (size_t i = 0; i < std::size(kProducts); ++i) {
      const Product& p = kProducts[i];
      if (p.new_input) held = {};
      PackedMatmulArgs args;
      args.w = {codes_[static_cast<size_t>(layer) * std::size(kProducts) + i].as<uint8_t>(),
                buffers_->scale.as<float>(),
                buffers_->table.as<int32_t>(),
                pair_bits,
                p.rows,
                p.cols};
      args.x = {buffers_->q.as<int16_t>(), p.cols, buffers_->scale.as<float>(), tokens};
      args.y = buffers_->y.as<float>();
      args.y_stride = p.rows;
      args.strip_end = StripsDown(p.rows);
      args.scratch = buffers_->scratch.as<void>();
      RETURN_IF_ERROR(LaunchPackedMatmul(args, stream_, &held));
    }
    return absl::OkStatus();
  }

  absl::Status Chain(int pair_bits) {
    const auto queue = [&]() -> absl::Status {
      for (int layer = 0; layer < options_.layers; ++layer) RETURN_IF_ERROR(QueueLayer(layer, pair_bits, 1));
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(CudaStatus(cudaStreamBeginCapture(stream_.handle(), cudaStreamCaptureModeThreadLocal),
                               "beginning to record a graph"));
    const absl::Status queued = queue();
    cudaGraph_t graph = nullptr;
    RETURN_IF_ERROR(CudaStatus(cudaStreamEndCapture(stream_.handle(), &graph), "recording a graph"));
    RETURN_IF_ERROR(queued);
    cudaGraphExec_t ready = nullptr;
    RETURN_IF_ERROR(CudaStatus(cudaGraphInstantiate(&ready, graph, 0), "making a graph ready"));
    ASSIGN_OR_RETURN(const double seconds, TimeOnGpu(stream_, options_.repetitions, [&] {
                       return CudaStatus(cudaGraphLaunch(ready, stream_.handle()), "queueing a graph");
                     }));
    cudaGraphExecDestroy(ready);
    cudaGraphDestroy(graph);
    int64_t bytes = 0;
    for (const CudaBuffer& codes : codes_) bytes += codes.bytes();
    const double rate = static_cast<double>(bytes) / seconds;
    Print({{"kind", "chain"},
           {"pair_bits", pair_bits},
           {"layers", options_.layers},
           {"code_bytes", bytes},
           {"microseconds", seconds * 1e6},
           {"gb_per_second", rate / 1e9},
           {"read_fraction", rate / read_}});
    return absl::OkStatus();
  }

  absl::Status Prefill(int pair_bits, int tokens) {
    double weights = 0;
    for (const Product& p : kProducts) weights += static_cast<double>(p.rows * p.cols);
    ASSIGN_OR_RETURN(const double seconds,
                     TimeOnGpu(stream_, options_.repetitions, [&] { return QueueLayer(0, pair_bits, tokens); }));
    nlohmann::json line = {{"kind", "prefill"},
                           {"pair_bits", pair_bits},
                           {"tokens", tokens},
                           {"microseconds", seconds * 1e6},
                           {"tera_weights_per_second", weights * tokens / seconds / 1e12},
                           {"gb_per_second", CodeBytesOfLayer(pair_bits) / seconds / 1e9},
                           {"read_fraction", CodeBytesOfLayer(pair_bits) / seconds / read_}};
    if (peak_ > 0) line["peak_fraction"] = weights * tokens / seconds / peak_;
    if (cublas_ != nullptr) {
      ASSIGN_OR_RETURN(
          const double theirs, TimeOnGpu(stream_, options_.repetitions, [&]() -> absl::Status {
            for (size_t i = 0; i < std::size(kProducts); ++i) {
              RETURN_IF_ERROR(cublas_->Multiply(halves_[i].as<void>(), halves_.back().as<void>(),
                                                buffers_->y.as<void>(), kProducts[i].rows, kProducts[i].cols, tokens));
            }
            return absl::OkStatus();
          }));
      line["cublas_microseconds"] = theirs * 1e6;
      line["cublas_fraction"] = theirs / seconds;
    }
    Print(line);
    return absl::OkStatus();
  }

  static double CodeBytesOfLayer(int pair_bits) {
    int64_t bytes = 0;
    for (const Product& p : kProducts) bytes += PackedBytes(p.rows, p.cols, pair_bits);
    return static_cast<double>(bytes);
  }

  struct Buffers {
    CudaBuffer q, scale, y, scratch, table;
  };
  const Options& options_;
  CudaStream stream_;
  double read_ = 0;  // bytes a second
  double peak_ = 0;  // multiply-adds a second; 0: not known
  std::unique_ptr<Buffers> buffers_;
  std::vector<CudaBuffer> codes_;   // [layer][product]
  std::vector<CudaBuffer> halves_;  // weights of each product, then activations; where there is cuBLAS
  std::unique_ptr<Cublas> cublas_;
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
  CLI::App app("Measures the products of a model's layers on a GPU.");
  app.add_option("--device", options.device, "The GPU's number (default: the first usable one)");
  app.add_option("--layers", options.layers, "Layers of the chain")->check(CLI::Range(1, 32));
  app.add_option("--pair-bits", options.pair_bits, "Bits a pair of the joint codec")->check(CLI::Range(5, 12));
  app.add_option("--prompts", options.prompts, "Tokens of prompts")->check(CLI::Range(1, 8192));
  app.add_option("--repetitions", options.repetitions)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = qamserve::Main(options);
  if (status.ok()) return 0;
  // No driver, no device, too old a one: 77 is what test drivers take for skipped.
  const bool skipped = absl::IsFailedPrecondition(status);
  std::fprintf(stderr, "%s: %s\n", skipped ? "skipped, no GPU" : "error", qamserve::MessageOf(status).c_str());
  return skipped ? 77 : 1;
}
