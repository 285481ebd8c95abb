// From what a person types to a resource name.
#pragma once

#include <span>
#include <string>

#include "client/qamctl/session.h"

namespace qamserve::qamctl {

struct Candidate {
  std::string name;  // checkpoints/{digest} and the like
  std::string display_name;
};

// The one candidate whose name, id, beginning of the id (4 characters at least) or display name is `text`; a whole name
// or id wins over a display name. NOT_FOUND ({NOUN}_NOT_FOUND) or INVALID_ARGUMENT (AMBIGUOUS_NAME) with the
// candidates. `noun` is "checkpoint", "artifact",
// "job" or "instance".
absl::StatusOr<std::string> PickName(const std::string& noun, const std::string& text,
                                     std::span<const Candidate> candidates);

// Resource name, beginning of the digest, display name, or a local path, which is uploaded first.
absl::StatusOr<std::string> ResolveCheckpoint(Session& session, const std::string& text);
// The same without local paths.
absl::StatusOr<std::string> ResolveStoredCheckpoint(Session& session, const std::string& text);
absl::StatusOr<std::string> ResolveArtifact(Session& session, const std::string& text);
absl::StatusOr<std::string> ResolveJob(Session& session, const std::string& text);
// Its display name is that of its machine.
absl::StatusOr<std::string> ResolveInstance(Session& session, const std::string& text);
// An artifact or a checkpoint.
absl::StatusOr<std::string> ResolveSource(Session& session, const std::string& text);
// texts/{digest}, a digest, "built-in", or a local file, which is uploaded first. Empty stays empty.
absl::StatusOr<std::string> ResolveText(Session& session, const std::string& text);
// "servedModels/NAME" or "NAME" to "NAME", which is what inference and LoadModel take.
std::string ModelName(const std::string& text);
// "aliases/NAME" or "NAME" to "NAME".
std::string AliasName(const std::string& text);

// Uploads with progress on the terminal. Ctrl-C stops it and says how to go on.
absl::StatusOr<v1::CompleteUploadResponse> UploadWithProgress(Session& session, const UploadOptions& upload);

}  // namespace qamserve::qamctl
