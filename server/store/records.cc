#include "server/store/records.h"

#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

namespace qamserve {

const char* JobKindName(JobKind kind) {
  switch (kind) {
    case JobKind::kQuantize:
      return "quantize";
    case JobKind::kEvaluate:
      return "evaluate";
    case JobKind::kStudy:
      return "study";
  }
  return "unknown";
}

const char* JobStateName(JobState state) {
  switch (state) {
    case JobState::kQueued:
      return "QUEUED";
    case JobState::kRunning:
      return "RUNNING";
    case JobState::kGating:
      return "GATING";
    case JobState::kSucceeded:
      return "SUCCEEDED";
    case JobState::kRejected:
      return "REJECTED";
    case JobState::kFailed:
      return "FAILED";
    case JobState::kCancelled:
      return "CANCELLED";
  }
  return "UNKNOWN";
}

const char* TaskStateName(TaskState state) {
  switch (state) {
    case TaskState::kReady:
      return "READY";
    case TaskState::kLeased:
      return "LEASED";
    case TaskState::kDone:
      return "DONE";
    case TaskState::kFailed:
      return "FAILED";
  }
  return "UNKNOWN";
}

const char* TaskStageName(TaskStage stage) {
  switch (stage) {
    case TaskStage::kPrepare:
      return "prepare";
    case TaskStage::kCalibrate:
      return "calibrate";
    case TaskStage::kQuantize:
      return "quantize";
    case TaskStage::kAssemble:
      return "assemble";
    case TaskStage::kEvaluate:
      return "evaluate";
    case TaskStage::kProbe:
      return "probe";
    case TaskStage::kAllocate:
      return "allocate";
  }
  return "unknown";
}

ErrorRecord ErrorFromStatus(const absl::Status& status) {
  return {ReasonOf(status), MessageOf(status), static_cast<int>(status.code())};
}

absl::Status StatusFromError(const ErrorRecord& error) {
  if (error.ok()) return absl::OkStatus();
  return MakeError(static_cast<absl::StatusCode>(error.code), error.reason, error.message);
}

std::string ResourceName(std::string_view collection, std::string_view id) {
  return fmt::format("{}/{}", collection, id);
}

absl::StatusOr<std::string> ParseResourceName(std::string_view collection, std::string_view name) {
  const bool fits = name.size() > collection.size() + 1 && name.substr(0, collection.size()) == collection &&
                    name[collection.size()] == '/';
  const std::string_view id = fits ? name.substr(collection.size() + 1) : std::string_view();
  const bool plain = std::all_of(
      id.begin(), id.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; });
  if (id.empty() || id.size() > 128 || !plain) {
    return InvalidArgument("RESOURCE_NAME",
                           "'{}' is not a name of the form {}/ID, where ID has 1 to 128 letters, digits, "
                           "'-', '_' or '.'",
                           name.substr(0, 200), collection);
  }
  return std::string(id);
}

std::string RandomId() {
  unsigned char bytes[10];
  // getrandom gives up to 256 bytes at once and does not fail once the system has booted.
  while (::getrandom(bytes, sizeof bytes, 0) != static_cast<ssize_t>(sizeof bytes)) {
  }
  std::string id;
  for (unsigned char byte : bytes) fmt::format_to(std::back_inserter(id), "{:02x}", byte);
  return id;
}

int64_t SystemNowMs() {
  using std::chrono::duration_cast, std::chrono::milliseconds, std::chrono::system_clock;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

std::string ManifestJson(std::vector<FileRecord> files) {
  std::sort(files.begin(), files.end(), [](const FileRecord& a, const FileRecord& b) { return a.name < b.name; });
  nlohmann::json list = nlohmann::json::array();
  for (const FileRecord& file : files) {
    list.push_back({{"name", file.name}, {"sha256", file.sha256}, {"size", file.size_bytes}});
  }
  // `replace`: a name that is not UTF-8 must not throw.
  return nlohmann::json{{"files", std::move(list)}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string TensorOutcomesToJson(const std::vector<TensorOutcome>& outcomes) {
  nlohmann::json list = nlohmann::json::array();
  for (const TensorOutcome& t : outcomes) {
    list.push_back({{"name", t.name},
                    {"rows", t.rows},
                    {"cols", t.cols},
                    {"bpw", t.bpw},
                    {"distortion", t.distortion},
                    {"worst_row_distortion", t.worst_row_distortion},
                    {"output_error", t.output_error},
                    {"weighted_error", t.weighted_error}});
    if (!t.type.empty()) list.back()["type"] = t.type;
  }
  return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<std::vector<TensorOutcome>> TensorOutcomesFromJson(const std::string& json) {
  try {
    std::vector<TensorOutcome> outcomes;
    for (const nlohmann::json& t : nlohmann::json::parse(json)) {
      outcomes.push_back({.name = t.at("name").get<std::string>(),
                          .rows = t.at("rows").get<int64_t>(),
                          .cols = t.at("cols").get<int64_t>(),
                          .bpw = t.at("bpw").get<double>(),
                          .distortion = t.at("distortion").get<double>(),
                          // Of earlier versions neither is known.
                          .worst_row_distortion = t.value("worst_row_distortion", 0.0),
                          .weighted_error = t.at("weighted_error").get<double>(),
                          .output_error = t.value("output_error", 0.0),
                          .type = t.value("type", "")});
    }
    return outcomes;
  } catch (const nlohmann::json::exception& error) {
    return DataLoss("STORE_CORRUPT", "stored tensor outcomes cannot be read: {}", error.what());
  }
}

}  // namespace qamserve
