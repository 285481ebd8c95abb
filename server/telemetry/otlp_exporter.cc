#include "server/telemetry/otlp_exporter.h"

#include <absl/time/clock.h>
#include <curl/curl.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace qamserve {
namespace {

using Json = nlohmann::json;

constexpr char kScope[] = "qamserve";
// Of a status in OTLP.
constexpr int kStatusError = 2;
// A collector's answer says nothing that is needed but its status; this much of it goes into an error.
constexpr size_t kMaxAnswerBytes = 200;

Json ToJson(const AttributeValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return {{"stringValue", *text}};
  // 64-bit integers are strings in protobuf's JSON.
  if (const auto* integer = std::get_if<int64_t>(&value)) return {{"intValue", std::to_string(*integer)}};
  if (const auto* real = std::get_if<double>(&value)) return {{"doubleValue", *real}};
  return {{"boolValue", std::get<bool>(value)}};
}

Json ToJson(const std::vector<std::pair<std::string, AttributeValue>>& attributes) {
  Json list = Json::array();
  for (const auto& [key, value] : attributes) list.push_back({{"key", key}, {"value", ToJson(value)}});
  return list;
}

std::string Nanoseconds(absl::Time time) { return std::to_string(absl::ToUnixNanos(time)); }

Json ToJson(const SpanRecord& span) {
  Json json = {{"traceId", HexOf(span.ids.trace_id)},
               {"spanId", HexOf(span.ids.span_id)},
               {"name", span.name},
               {"kind", static_cast<int>(span.kind)},
               {"startTimeUnixNano", Nanoseconds(span.start)},
               {"endTimeUnixNano", Nanoseconds(std::max(span.start, span.end))},
               {"attributes", ToJson(span.attributes)}};
  if (span.ids.parent_id != SpanId{}) json["parentSpanId"] = HexOf(span.ids.parent_id);
  for (const SpanEvent& event : span.events) {
    json["events"].push_back({{"timeUnixNano", Nanoseconds(event.time)}, {"name", event.name}});
  }
  if (!span.error.empty()) json["status"] = {{"code", kStatusError}, {"message", span.error}};
  return json;
}

// What the specification calls retryable.
bool MayPass(long status) { return status == 429 || status == 502 || status == 503 || status == 504; }

size_t KeepBody(char* data, size_t, size_t bytes, void* answer) {
  auto& text = *static_cast<std::string*>(answer);
  text.append(data, std::min(bytes, kMaxAnswerBytes - std::min(kMaxAnswerBytes, text.size())));
  return bytes;
}

}  // namespace

std::string OtlpTraceJson(const std::vector<std::pair<std::string, AttributeValue>>& resource,
                          const std::vector<SpanRecord>& spans) {
  std::vector<std::pair<std::string, AttributeValue>> attributes = {{"service.name", "qamserve"},
                                                                    {"service.version", QAMSERVE_VERSION}};
  attributes.insert(attributes.end(), resource.begin(), resource.end());
  Json list = Json::array();
  for (const SpanRecord& span : spans) list.push_back(ToJson(span));
  const Json scope = {{"name", kScope}, {"version", QAMSERVE_VERSION}};
  const Json scope_spans = {{"scope", scope}, {"spans", std::move(list)}};
  const Json body = {{"resourceSpans", Json::array({{{"resource", {{"attributes", ToJson(attributes)}}},
                                                     {"scopeSpans", Json::array({scope_spans})}}})}};
  // Names may quote hostile input; bytes that are not UTF-8 must not make dump() throw.
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// One connection to the collector, kept from request to request. Of the exporter's thread.
class OtlpExporter::Connection {
 public:
  explicit Connection(OtlpExporter& exporter) : exporter_(exporter), curl_(curl_easy_init()) {
    const std::string& endpoint = exporter.options_.endpoint;
    url_ = endpoint.substr(0, endpoint.find_last_not_of('/') + 1) + "/v1/traces";
    headers_ = curl_slist_append(headers_, "Content-Type: application/json");
    if (curl_ == nullptr || headers_ == nullptr) return;
    curl_easy_setopt(curl_, CURLOPT_URL, url_.c_str());
    curl_easy_setopt(curl_, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl_, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl_, CURLOPT_HTTPHEADER, headers_);
    curl_easy_setopt(curl_, CURLOPT_USERAGENT, "qamserve/" QAMSERVE_VERSION);
    curl_easy_setopt(curl_, CURLOPT_TIMEOUT_MS,
                     static_cast<long>(absl::ToInt64Milliseconds(exporter.options_.timeout)));
    curl_easy_setopt(curl_, CURLOPT_WRITEFUNCTION, KeepBody);
    curl_easy_setopt(curl_, CURLOPT_WRITEDATA, &answer_);
    curl_easy_setopt(curl_, CURLOPT_ERRORBUFFER, error_);
    curl_easy_setopt(curl_, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl_, CURLOPT_XFERINFOFUNCTION, IsOver);
    curl_easy_setopt(curl_, CURLOPT_XFERINFODATA, &exporter_);
  }
  ~Connection() {
    curl_easy_cleanup(curl_);
    curl_slist_free_all(headers_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // UNAVAILABLE (OTLP) if another attempt may go better, else FAILED_PRECONDITION (OTLP).
  absl::Status Post(const std::string& body) {
    if (curl_ == nullptr || headers_ == nullptr) return FailedPrecondition("OTLP", "libcurl cannot start");
    answer_.clear();
    error_[0] = '\0';
    curl_easy_setopt(curl_, CURLOPT_POSTFIELDS, body.c_str());
    curl_easy_setopt(curl_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    const CURLcode code = curl_easy_perform(curl_);
    if (code != CURLE_OK) {
      return Unavailable("OTLP", "{}: {}", url_, error_[0] != '\0' ? error_ : curl_easy_strerror(code));
    }
    long status = 0;
    curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 200 && status < 300) return absl::OkStatus();
    if (MayPass(status)) return Unavailable("OTLP", "{} answered {}: {}", url_, status, answer_);
    return FailedPrecondition("OTLP", "{} answered {}: {}", url_, status, answer_);
  }

 private:
  static int IsOver(void* exporter, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    return absl::Now() > static_cast<OtlpExporter*>(exporter)->StopTime() ? 1 : 0;
  }

  OtlpExporter& exporter_;
  CURL* const curl_;
  curl_slist* headers_ = nullptr;
  std::string url_;
  std::string answer_;
  char error_[CURL_ERROR_SIZE] = {};
};

absl::Status CheckOtlpEndpoint(const std::string& url) {
  const bool web = url.starts_with("http://") || url.starts_with("https://");
  const size_t host = url.find("://") + 3;
  if (web && url.size() > host && url[host] != '/' && url.find_first_of("@?# \t\r\n", host) == std::string::npos) {
    return absl::OkStatus();
  }
  return InvalidArgument("OTLP_ENDPOINT",
                         "the OTLP endpoint must be http://HOST:PORT or https://HOST:PORT, with a path or without, and "
                         "without user, query or fragment");
}

absl::StatusOr<std::shared_ptr<OtlpExporter>> OtlpExporter::Start(OtlpOptions options) {
  RETURN_IF_ERROR(CheckOtlpEndpoint(options.endpoint));
  return std::shared_ptr<OtlpExporter>(new OtlpExporter(std::move(options)));
}

OtlpExporter::OtlpExporter(OtlpOptions options) : options_(std::move(options)), thread_([this] { Run(); }) {}

OtlpExporter::~OtlpExporter() {
  {
    absl::MutexLock lock(&mutex_);
    stop_at_ = absl::Now() + options_.stop_limit;
    changed_.SignalAll();
  }
  thread_.join();
}

absl::Time OtlpExporter::StopTime() {
  absl::MutexLock lock(&mutex_);
  return stop_at_;
}

void OtlpExporter::Count(size_t exported, size_t dropped) {
  if (options_.on_count) options_.on_count(exported, dropped);
}

void OtlpExporter::Take(SpanRecord span) {
  {
    absl::MutexLock lock(&mutex_);
    if (queue_.size() < options_.max_queued) {
      queue_.push_back(std::move(span));
      if (queue_.size() == 1 || queue_.size() == options_.max_batch) changed_.Signal();
      return;
    }
  }
  Count(0, 1);
}

std::vector<SpanRecord> OtlpExporter::NextBatch() {
  absl::MutexLock lock(&mutex_);
  const auto stopping = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_at_ != absl::InfiniteFuture(); };
  while (queue_.empty() && !stopping()) changed_.Wait(&mutex_);
  const absl::Time full = absl::Now() + options_.interval;
  while (queue_.size() < options_.max_batch && !stopping() && absl::Now() < full) {
    changed_.WaitWithDeadline(&mutex_, full);
  }
  const auto end = queue_.begin() + static_cast<std::ptrdiff_t>(std::min(queue_.size(), options_.max_batch));
  std::vector<SpanRecord> batch(std::make_move_iterator(queue_.begin()), std::make_move_iterator(end));
  queue_.erase(queue_.begin(), end);
  return batch;
}

void OtlpExporter::Run() {
  Connection connection(*this);
  for (std::vector<SpanRecord> batch = NextBatch(); !batch.empty(); batch = NextBatch()) Send(connection, batch);
}

void OtlpExporter::Send(Connection& connection, const std::vector<SpanRecord>& batch) {
  const std::string body = OtlpTraceJson(options_.resource, batch);
  absl::Duration pause = options_.first_pause;
  absl::Status status = Unavailable("OTLP", "the program ends");
  for (int attempt = 0; attempt < options_.attempts && absl::IsUnavailable(status); ++attempt) {
    if (attempt > 0 && !Pause(pause)) break;
    if (attempt > 0) pause *= 2;
    if (absl::Now() > StopTime()) break;
    status = connection.Post(body);
  }
  Count(status.ok() ? batch.size() : 0, status.ok() ? 0 : batch.size());
  if (!status.ok() && !failing_ && options_.on_error) options_.on_error(status);
  failing_ = !status.ok();
}

bool OtlpExporter::Pause(absl::Duration duration) {
  const absl::Time end = absl::Now() + duration;
  absl::MutexLock lock(&mutex_);
  while (stop_at_ == absl::InfiniteFuture()) {
    if (changed_.WaitWithDeadline(&mutex_, end) && absl::Now() >= end) return true;
  }
  return false;
}

}  // namespace qamserve
