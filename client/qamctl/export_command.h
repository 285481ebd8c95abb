// `qamctl artifacts export`.
#pragma once

#include <string>

#include "client/qamctl/session.h"

namespace qamserve::qamctl {

struct ExportFlags {
  std::string artifact;  // what ResolveArtifact takes, or a folder on this machine
  std::string format;    // "hf", "gguf"
  std::string dtype = "bf16";
  std::string out;
};

// Fetches the artifact's files into a folder next to `out`, goes on there where an earlier attempt stopped, and exports
// from it. The folder goes when the export is done.
absl::Status Export(Session& session, const ExportFlags& flags);

}  // namespace qamserve::qamctl
