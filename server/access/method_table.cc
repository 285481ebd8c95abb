#include "server/access/method_table.h"

#include <array>

namespace qamserve {
namespace {

constexpr ScopeSet kRead = {Scope::kRead};
constexpr ScopeSet kUpload = {Scope::kUpload};
constexpr ScopeSet kReadOrUpload = {Scope::kRead, Scope::kUpload};
constexpr ScopeSet kQuantize = {Scope::kQuantize};
constexpr ScopeSet kReadOrQuantize = {Scope::kRead, Scope::kQuantize};
constexpr ScopeSet kInfer = {Scope::kInfer};
constexpr ScopeSet kReadOrInfer = {Scope::kRead, Scope::kInfer};
constexpr ScopeSet kAdmin = {Scope::kAdmin};
constexpr ScopeSet kAnyKey = {};

constexpr MethodRule Reads(std::string_view service, std::string_view method, ScopeSet scopes) {
  return {.service = service, .method = method, .scopes = scopes};
}
constexpr MethodRule Changes(std::string_view service, std::string_view method, ScopeSet scopes) {
  return {.service = service, .method = method, .scopes = scopes, .changes = true};
}
constexpr MethodRule Infers(std::string_view method) {
  return {.service = "InferenceService", .method = method, .scopes = kInfer, .inference = true};
}

constexpr std::array kTable = {
    Changes("CheckpointService", "CreateUpload", kUpload),
    Changes("CheckpointService", "UploadFile", kUpload),
    Reads("CheckpointService", "QueryUpload", kReadOrUpload),
    Changes("CheckpointService", "CompleteUpload", kUpload),
    Changes("CheckpointService", "CancelUpload", kUpload),
    Changes("CheckpointService", "ImportCheckpoint", kUpload),
    Reads("CheckpointService", "GetCheckpoint", kRead),
    Reads("CheckpointService", "ListCheckpoints", kRead),
    Changes("CheckpointService", "DeleteCheckpoint", kAdmin),

    Changes("JobService", "CreateQuantizeJob", kQuantize),
    Changes("JobService", "CreateEvaluateJob", kQuantize),
    Changes("JobService", "CreateStudyJob", kQuantize),
    Reads("JobService", "GetStudy", kReadOrQuantize),
    Reads("JobService", "GetJob", kReadOrQuantize),
    Reads("JobService", "ListJobs", kReadOrQuantize),
    Reads("JobService", "WatchJob", kReadOrQuantize),
    Changes("JobService", "CancelJob", kQuantize),
    Changes("JobService", "RetryJob", kQuantize),
    Changes("JobService", "DeleteJob", kAdmin),

    Reads("ArtifactService", "GetArtifact", kRead),
    Reads("ArtifactService", "ListArtifacts", kRead),
    Reads("ArtifactService", "DownloadFile", kRead),
    Reads("ArtifactService", "GetReport", kRead),
    Changes("ArtifactService", "DeleteArtifact", kAdmin),

    Changes("ServingService", "LoadModel", kAdmin),
    Changes("ServingService", "UnloadModel", kAdmin),
    Reads("ServingService", "GetServedModel", kReadOrInfer),
    Reads("ServingService", "ListServedModels", kReadOrInfer),
    Changes("ServingService", "UpdateAlias", kAdmin),
    Reads("ServingService", "GetAlias", kReadOrInfer),
    Reads("ServingService", "ListAliases", kReadOrInfer),
    Changes("ServingService", "DeleteAlias", kAdmin),

    Infers("Generate"),
    Infers("Chat"),
    Infers("Score"),
    Infers("Compare"),
    Infers("Embed"),
    Infers("Tokenize"),
    Infers("Detokenize"),

    Changes("AccessService", "CreateKey", kAdmin),
    Reads("AccessService", "GetKey", kAdmin),
    Reads("AccessService", "ListKeys", kAdmin),
    Changes("AccessService", "RotateKey", kAdmin),
    Changes("AccessService", "RevokeKey", kAdmin),
    Changes("AccessService", "DeleteKey", kAdmin),
    // Not counted: who has reached a limit can still ask what is left.
    MethodRule{.service = "AccessService", .method = "GetCaller", .scopes = kAnyKey, .counted = false},
    Reads("AccessService", "ListAuditEvents", kAdmin),

    Reads("SystemService", "GetSystem", kRead),

    Reads("AdminService", "ListInstances", kAdmin),
    Changes("AdminService", "DrainInstance", kAdmin),
    Reads("AdminService", "ListLeases", kAdmin),
    Changes("AdminService", "ReleaseLease", kAdmin),
    Reads("AdminService", "GetQueue", kAdmin),
    Changes("AdminService", "CollectGarbage", kAdmin),
    Reads("AdminService", "GetSchema", kAdmin),
    Reads("AdminService", "BackupMetadata", kAdmin),
};

constexpr std::array<Scope, 5> kScopes = {Scope::kRead, Scope::kUpload, Scope::kQuantize, Scope::kInfer, Scope::kAdmin};

}  // namespace

std::span<const MethodRule> MethodTable() { return kTable; }

const MethodRule* FindMethodRule(std::string_view service, std::string_view method) {
  for (const MethodRule& rule : kTable) {
    if (rule.method == method && rule.service == service) return &rule;
  }
  return nullptr;
}

std::string_view ScopeName(Scope scope) {
  switch (scope) {
    case Scope::kRead:
      return "read";
    case Scope::kUpload:
      return "upload";
    case Scope::kQuantize:
      return "quantize";
    case Scope::kInfer:
      return "infer";
    case Scope::kAdmin:
      return "admin";
  }
  return "unknown";
}

std::string ScopeNames(ScopeSet scopes, std::string_view between) {
  std::string names;
  for (const Scope scope : kScopes) {
    if (!scopes.Has(scope)) continue;
    if (!names.empty()) names += between;
    names += ScopeName(scope);
  }
  return names;
}

}  // namespace qamserve
