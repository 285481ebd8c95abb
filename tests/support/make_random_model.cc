// Writes a Llama directory with random weights, for measurements that need a model of a given size and no more than
// that. Memory stays at a few megabytes, whatever the size.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

int64_t BlockParameters(const TinyModelOptions& o) {
  const int64_t q = o.num_heads * o.head_dim, kv = o.num_kv_heads * o.head_dim;
  return 2 * o.hidden_size * (q + kv) + 3 * o.hidden_size * o.intermediate_size + 2 * o.hidden_size;
}

// As many layers as it takes to reach `bytes`.
int64_t LayersFor(const TinyModelOptions& o, int64_t bytes) {
  const int64_t parameters = (bytes + DTypeBlockBytes(o.dtype) - 1) / DTypeBlockBytes(o.dtype);
  const int64_t ends = (o.tie_embeddings ? 1 : 2) * o.vocab_size * o.hidden_size + o.hidden_size;
  const int64_t blocks = std::max<int64_t>(0, parameters - ends);
  return std::max<int64_t>(1, (blocks + BlockParameters(o) - 1) / BlockParameters(o));
}

int Run(int argc, char** argv) {
  TinyModelOptions o{.vocab_size = 32000,
                     .hidden_size = 2048,
                     .intermediate_size = 5632,
                     .num_layers = 22,
                     .num_heads = 32,
                     .num_kv_heads = 4,
                     .head_dim = 64,
                     .context_length = 2048,
                     .dtype = DType::kBF16,
                     .shard_bytes = int64_t{512} << 20};
  std::string out, dtype = "BF16";
  int64_t bytes = 0;
  CLI::App app("Writes a Llama directory with random weights.");
  app.add_option("--out", out, "Folder to write; made if it is not there")->required();
  app.add_option("--bytes", bytes, "As many layers as it takes for this many bytes of weights; instead of --layers");
  app.add_option("--layers", o.num_layers, "Number of layers")->capture_default_str();
  app.add_option("--hidden", o.hidden_size, "Hidden size")->capture_default_str();
  app.add_option("--intermediate", o.intermediate_size, "Intermediate size of the MLP")->capture_default_str();
  app.add_option("--heads", o.num_heads, "Attention heads; the hidden size is a multiple")->capture_default_str();
  app.add_option("--kv-heads", o.num_kv_heads, "Key and value heads")->capture_default_str();
  app.add_option("--vocab", o.vocab_size, "Size of the vocabulary")
      ->capture_default_str()
      ->check(CLI::Range(262, 60000));
  app.add_option("--dtype", dtype, "Type of the weights")
      ->capture_default_str()
      ->check(CLI::IsMember({"BF16", "F16", "F32"}));
  app.add_option("--seed", o.seed, "Seed of the weights")->capture_default_str();
  app.add_option("--shard-bytes", o.shard_bytes, "A new shard once one has this many; 0 = one file")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  o.dtype = dtype == "BF16" ? DType::kBF16 : dtype == "F16" ? DType::kF16 : DType::kF32;
  o.head_dim = o.hidden_size / std::max<int64_t>(1, o.num_heads);
  if (bytes > 0) o.num_layers = LayersFor(o, bytes);
  if (const absl::Status status = WriteTinyModel(o, out); !status.ok()) {
    fmt::print(stderr, "make_random_model: {}\n", MessageOf(status));
    return 1;
  }
  fmt::print("{}: {} layers\n", out, o.num_layers);
  return 0;
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) { return qamserve::Run(argc, argv); }
