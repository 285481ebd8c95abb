#include "client/qamctl/resolve.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "client/qamctl/errors.h"
#include "client/qamctl/text.h"
#include "client/qamctl/transfer_meter.h"
#include "core/base/digest.h"

namespace qamserve::qamctl {
namespace {

// Shorter beginnings hit by accident.
constexpr size_t kMinPrefix = 4;
constexpr size_t kMaxListed = 8;

std::string Listed(std::span<const Candidate> candidates) {
  std::string text;
  for (size_t i = 0; i < candidates.size() && i < kMaxListed; ++i) {
    const Candidate& candidate = candidates[i];
    text += fmt::format("{}{}", i > 0 ? ", " : "", ShortName(candidate.name));
    if (!candidate.display_name.empty()) text += fmt::format(" ({})", candidate.display_name);
  }
  if (candidates.size() > kMaxListed) text += fmt::format(" and {} more", candidates.size() - kMaxListed);
  return text;
}

std::string UpperCase(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

template <typename Items>
std::vector<Candidate> CandidatesOf(const Items& items) {
  std::vector<Candidate> candidates;
  for (const auto& item : items) candidates.push_back({item.name(), item.display_name()});
  return candidates;
}

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// A path that no display name would look like.
bool LooksLikePath(const std::string& text) {
  return text.find('/') != std::string::npos || text.ends_with(".gguf") || text.ends_with(".txt") || text == ".";
}

// A resource name with a whole digest: there is nothing to look up.
bool IsWholeName(const std::string& text, std::string_view collection) {
  return text.starts_with(collection) && IsSha256(std::string_view(text).substr(collection.size()));
}

absl::StatusOr<std::vector<Candidate>> Checkpoints(Session& session) {
  ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse list, session.client().ListCheckpoints());
  return CandidatesOf(list.checkpoints());
}

absl::StatusOr<std::vector<Candidate>> Artifacts(Session& session) {
  ASSIGN_OR_RETURN(const v1::ListArtifactsResponse list, session.client().ListArtifacts(""));
  return CandidatesOf(list.artifacts());
}

}  // namespace

absl::StatusOr<std::string> PickName(const std::string& noun, const std::string& text,
                                     std::span<const Candidate> candidates) {
  const std::string collection = noun + "s/";
  const std::string id = WithoutPrefix(text, collection);
  std::vector<Candidate> found;
  for (const Candidate& candidate : candidates) {
    const std::string candidate_id = LastPart(candidate.name);
    if (candidate_id == id) return candidate.name;
    const bool by_prefix = id.size() >= kMinPrefix && candidate_id.starts_with(id);
    if (by_prefix || candidate.display_name == text) found.push_back(candidate);
  }
  if (found.size() == 1) return found[0].name;
  if (found.size() > 1) {
    return InvalidArgument("AMBIGUOUS_NAME", "\"{}\" may be any of {} {}s: {}", text, found.size(), noun,
                           Listed(found));
  }
  return NotFound(UpperCase(noun) + "_NOT_FOUND", "there is no {} \"{}\"; {}", noun, text,
                  candidates.empty() ? fmt::format("the server has no {}s", noun) : "there are " + Listed(candidates));
}

absl::StatusOr<std::string> ResolveStoredCheckpoint(Session& session, const std::string& text) {
  if (IsWholeName(text, "checkpoints/")) return text;
  ASSIGN_OR_RETURN(const std::vector<Candidate> candidates, Checkpoints(session));
  return PickName("checkpoint", text, candidates);
}

absl::StatusOr<std::string> ResolveCheckpoint(Session& session, const std::string& text) {
  if (IsWholeName(text, "checkpoints/")) return text;
  const bool exists = Exists(text);
  if (!(exists && LooksLikePath(text))) {
    absl::StatusOr<std::string> stored = ResolveStoredCheckpoint(session, text);
    if (stored.ok() || !absl::IsNotFound(stored.status()) || !exists) return stored;
  }
  ASSIGN_OR_RETURN(const v1::CompleteUploadResponse response, UploadWithProgress(session, {.path = text}));
  session.Note(fmt::format("using {}", ShortName(response.checkpoint().name())));
  return response.checkpoint().name();
}

absl::StatusOr<std::string> ResolveArtifact(Session& session, const std::string& text) {
  if (IsWholeName(text, "artifacts/")) return text;
  ASSIGN_OR_RETURN(const std::vector<Candidate> candidates, Artifacts(session));
  return PickName("artifact", text, candidates);
}

absl::StatusOr<std::string> ResolveJob(Session& session, const std::string& text) {
  // Most often a whole name that was printed by us; only another text needs the list.
  if (text.starts_with("jobs/")) {
    const absl::StatusOr<v1::Job> job = session.client().GetJob(text);
    if (job.ok()) return job->name();
    if (!absl::IsNotFound(job.status())) return job.status();
  }
  ASSIGN_OR_RETURN(const v1::ListJobsResponse list, session.client().ListJobs(v1::JOB_STATE_UNSPECIFIED));
  const std::vector<Candidate> candidates = CandidatesOf(list.jobs());
  return PickName("job", text, candidates);
}

absl::StatusOr<std::string> ResolveInstance(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const v1::ListInstancesResponse list, session.client().ListInstances());
  std::vector<Candidate> candidates;
  candidates.reserve(static_cast<size_t>(list.instances_size()));
  for (const v1::Instance& instance : list.instances()) candidates.push_back({instance.name(), instance.host()});
  return PickName("instance", text, candidates);
}

absl::StatusOr<std::string> ResolveSource(Session& session, const std::string& text) {
  if (text.starts_with("artifacts/")) return ResolveArtifact(session, text);
  if (text.starts_with("checkpoints/")) return ResolveStoredCheckpoint(session, text);
  ASSIGN_OR_RETURN(std::vector<Candidate> candidates, Artifacts(session));
  ASSIGN_OR_RETURN(const std::vector<Candidate> checkpoints, Checkpoints(session));
  candidates.insert(candidates.end(), checkpoints.begin(), checkpoints.end());
  absl::StatusOr<std::string> name = PickName("artifact", text, candidates);
  if (!absl::IsNotFound(name.status())) return name;
  return NotFound("ARTIFACT_NOT_FOUND", "there is neither an artifact nor a checkpoint \"{}\"; {}", text,
                  candidates.empty() ? std::string("the server has none") : "there are " + Listed(candidates));
}

absl::StatusOr<std::string> ResolveText(Session& session, const std::string& text) {
  if (text.empty() || IsWholeName(text, "texts/")) return text;
  if (IsSha256(text)) return "texts/" + text;
  if (text == "built-in") return "texts/built-in";
  if (!Exists(text)) {
    return NotFound("TEXT_NOT_FOUND", "\"{}\" is neither a file on this machine nor texts/{{sha256}} nor built-in",
                    text);
  }
  ASSIGN_OR_RETURN(const v1::CompleteUploadResponse response,
                   UploadWithProgress(session, {.path = text, .kind = v1::UPLOAD_KIND_TEXT}));
  return response.text().name();
}

std::string ModelName(const std::string& text) { return WithoutPrefix(text, "servedModels/"); }

std::string AliasName(const std::string& text) { return WithoutPrefix(text, "aliases/"); }

absl::StatusOr<v1::CompleteUploadResponse> UploadWithProgress(Session& session, const UploadOptions& upload) {
  Interruptible interruptible(session.terminal().interrupts);
  absl::StatusOr<v1::CompleteUploadResponse> response;
  {
    TransferMeter meter(session, "sending");
    response = session.client().Upload(
        upload, [&](const TransferProgress& progress) { meter.Update(progress); }, interruptible.cancellation());
  }
  if (!response.ok() && interruptible.interrupted()) {
    return Cancelled(kInterrupted, "stopped; what has arrived is kept: run the same command again to go on");
  }
  return response;
}

}  // namespace qamserve::qamctl
