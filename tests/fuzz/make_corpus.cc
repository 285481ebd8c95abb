// Writes the seeds of every target, for libFuzzer to begin with. Usage: make_corpus FOLDER; each gets FOLDER/NAME.
#include <cstdio>

#include "core/base/file.h"
#include "tests/fuzz/targets.h"

namespace qamserve {
namespace {

absl::Status WriteCorpora(const std::string& folder) {
  for (const FuzzTarget& target : FuzzTargets()) {
    const std::string path = fmt::format("{}/{}", folder, target.name);
    RETURN_IF_ERROR(CreateDirectories(path));
    ASSIGN_OR_RETURN(const std::vector<std::string> seeds, target.seeds());
    for (size_t i = 0; i < seeds.size(); ++i) {
      RETURN_IF_ERROR(WriteFileAtomically(fmt::format("{}/seed{}", path, i), seeds[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: make_corpus FOLDER\n", stderr);
    return 2;
  }
  const absl::Status status = qamserve::WriteCorpora(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "make_corpus: %s\n", qamserve::MessageOf(status).c_str());
  return status.ok() ? 0 : 1;
}
