// Prints a model's logits after each of the given tokens, as little-endian floats [tokens][vocab_size], for
// compare_logits.py. Usage: logits_main MODEL OUT TOKEN...
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "core/base/file.h"
#include "core/model/model.h"

namespace qamserve {
namespace {

absl::Status Run(const std::string& path, const std::string& out, const std::vector<int32_t>& tokens) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(path));
  ASSIGN_OR_RETURN(const auto model, Model::Load(files));
  ThreadPool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  Workspace workspace;
  KvCache cache(model->config(), static_cast<int64_t>(tokens.size()));
  const SequenceChunk chunk{tokens, &cache, /*all_logits=*/true};
  std::vector<float> logits;
  RETURN_IF_ERROR(model->Forward(std::span(&chunk, 1), workspace, pool, logits));
  return WriteFileAtomically(out, {reinterpret_cast<const char*>(logits.data()), logits.size() * sizeof(float)});
}

int Main(int argc, char** argv) {
  if (argc < 4) {
    fmt::print(stderr, "usage: {} MODEL OUT TOKEN...\n", argv[0]);
    return 2;
  }
  std::vector<int32_t> tokens;
  for (int i = 3; i < argc; ++i) tokens.push_back(std::atoi(argv[i]));
  const absl::Status status = Run(argv[1], argv[2], tokens);
  if (!status.ok()) fmt::print(stderr, "{}\n", MessageOf(status));
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) { return qamserve::Main(argc, argv); }
