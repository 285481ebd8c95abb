// llama-server under load: POST /completion with "stream": true, one thread for all streams. Sockets are watched with
// epoll, so that a token of one stream costs nothing for the others: curl_multi_perform would go through all of them.
#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <curl/curl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <thread>
#include <utility>

#include "tests/bench/load_target.h"

namespace qamserve {
namespace {

// An event is some hundred bytes, the last one a few thousand.
constexpr size_t kMaxLineBytes = size_t{1} << 20;
constexpr size_t kMaxShownBytes = 300;
// Sockets handled for one call of epoll_wait.
constexpr int kEvents = 64;

nlohmann::json CompletionRequest(const LoadRequest& request) {
  return {{"prompt", request.prompt},
          {"n_predict", request.max_tokens},
          {"stream", true},
          {"ignore_eos", true},
          {"cache_prompt", false},
          // The likeliest token and no other work: what ours does at temperature 0.
          {"samplers", {"top_k"}},
          {"top_k", 1}};
}

// What the lines of one answer say: server-sent events whose data are JSON objects.
class CompletionReader {
 public:
  explicit CompletionReader(LoadSink& sink) : sink_(sink) {}

  // False: the answer makes no sense.
  bool Read(std::string_view bytes) {
    line_.append(bytes);
    size_t begin = 0;
    for (size_t end = line_.find('\n'); end != std::string::npos; end = line_.find('\n', begin)) {
      ReadLine(std::string_view(line_).substr(begin, end - begin));
      begin = end + 1;
    }
    line_.erase(0, begin);
    return line_.size() <= kMaxLineBytes;
  }

  absl::Status End(CURLcode code, long http_status) const {
    if (!error_.empty()) return Internal("LLAMA_SERVER", "{}", error_);
    if (code != CURLE_OK) return Unavailable("HTTP", "{}", curl_easy_strerror(code));
    if (http_status != 200) {
      return Unavailable("HTTP", "status {}: {}", http_status, first_line_.empty() ? line_ : first_line_);
    }
    if (!complete_) return Internal("NO_STOP_TYPE", "the stream ended without a last event that says why");
    return absl::OkStatus();
  }

 private:
  void ReadLine(std::string_view line) {
    if (first_line_.empty()) first_line_ = line.substr(0, kMaxShownBytes);
    const size_t colon = line.find(": ");
    const std::string_view field = line.substr(0, colon);
    if (colon == std::string_view::npos || (field != "data" && field != "error")) return;
    const auto event = nlohmann::json::parse(line.substr(colon + 2), nullptr, /*allow_exceptions=*/false);
    if (!event.is_object()) return;
    if (field == "error" || event.contains("error")) {
      error_ = event.dump().substr(0, kMaxShownBytes);
      return;
    }
    // Tokens that are part of a character come with the one that ends it; the count has them all.
    const int64_t tokens = Count(event, "tokens_predicted");
    if (tokens > tokens_) sink_.OnTokens(tokens - std::exchange(tokens_, tokens));
    const auto stop = event.find("stop");
    const auto type = event.find("stop_type");
    complete_ = stop != event.end() && *stop == true && type != event.end() && type->is_string() && *type != "none";
  }

  static int64_t Count(const nlohmann::json& event, const char* field) {
    const auto found = event.find(field);
    return found != event.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
  }

  LoadSink& sink_;
  std::string line_;  // of an event that has not come whole
  std::string first_line_;
  std::string error_;
  int64_t tokens_ = 0;
  bool complete_ = false;
};

// Request and answer of one stream; the handle points into it.
struct HttpStream {
  HttpStream(const LoadRequest& request, std::shared_ptr<LoadSink> to)
      : body(CompletionRequest(request).dump()), sink(std::move(to)), reader(*sink) {}
  HttpStream(const HttpStream&) = delete;
  HttpStream& operator=(const HttpStream&) = delete;
  ~HttpStream() { curl_easy_cleanup(easy); }

  const std::string body;
  const std::shared_ptr<LoadSink> sink;
  CompletionReader reader;
  CURL* const easy = curl_easy_init();
};

size_t OnBytes(char* bytes, size_t size, size_t count, void* stream) {
  return static_cast<HttpStream*>(stream)->reader.Read({bytes, size * count}) ? size * count : 0;
}

class HttpTarget final : public LoadTarget {
 public:
  explicit HttpTarget(const std::string& address) : url_("http://" + address + "/completion") {
    headers_ = curl_slist_append(headers_, "Content-Type: application/json");
    headers_ = curl_slist_append(headers_, "Expect:");  // no round trip before the body
    curl_multi_setopt(multi_, CURLMOPT_SOCKETFUNCTION, &HttpTarget::OnSocket);
    curl_multi_setopt(multi_, CURLMOPT_SOCKETDATA, this);
    curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, &HttpTarget::OnTimer);
    curl_multi_setopt(multi_, CURLMOPT_TIMERDATA, this);
    epoll_event event{.events = EPOLLIN, .data = {.fd = wake_}};
    epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
    thread_ = std::thread([this] { Loop(); });
  }

  ~HttpTarget() override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    Wake();
    thread_.join();
    for (const auto& [easy, stream] : running_) curl_multi_remove_handle(multi_, easy);
    running_.clear();
    curl_multi_cleanup(multi_);
    curl_slist_free_all(headers_);
    close(wake_);
    close(epoll_);
  }

  void Start(LoadRequest request, std::shared_ptr<LoadSink> sink) override {
    auto stream = std::make_unique<HttpStream>(request, std::move(sink));
    {
      absl::MutexLock lock(&mutex_);
      arrived_.push_back(std::move(stream));
    }
    Wake();
  }

  void CancelAll() override {
    {
      absl::MutexLock lock(&mutex_);
      cancel_ = true;
    }
    Wake();
  }

 private:
  using Clock = std::chrono::steady_clock;
  using Streams = std::map<CURL*, std::unique_ptr<HttpStream>>;

  void Wake() const {
    const uint64_t one = 1;
    // A counter that is full wakes, too.
    [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof(one));
  }

  // --- All below: the loop's thread alone ---

  void Loop() {
    while (TakeOrders()) {
      std::array<epoll_event, kEvents> events;
      const int n = epoll_wait(epoll_, events.data(), kEvents, MillisecondsToTimer());
      for (int i = 0; i < n; ++i) {
        const epoll_event& event = events[static_cast<size_t>(i)];
        if (event.data.fd == wake_) {
          uint64_t count;
          [[maybe_unused]] const ssize_t got = read(wake_, &count, sizeof(count));
          continue;
        }
        const int what = ((event.events & EPOLLIN) != 0 ? CURL_CSELECT_IN : 0) |
                         ((event.events & EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0) |
                         ((event.events & (EPOLLERR | EPOLLHUP)) != 0 ? CURL_CSELECT_ERR : 0);
        Act(event.data.fd, what);
      }
      if (timer_ && *timer_ <= Clock::now()) {
        timer_.reset();
        Act(CURL_SOCKET_TIMEOUT, 0);
      }
      EndFinished();
    }
  }

  // False when it is time to stop.
  bool TakeOrders() {
    std::vector<std::unique_ptr<HttpStream>> arrived;
    bool cancel;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return false;
      arrived.swap(arrived_);
      cancel = std::exchange(cancel_, false);
    }
    for (std::unique_ptr<HttpStream>& stream : arrived) Begin(std::move(stream));
    if (cancel) EndAll();
    return true;
  }

  void Begin(std::unique_ptr<HttpStream> stream) {
    CURL* const easy = stream->easy;
    curl_easy_setopt(easy, CURLOPT_URL, url_.c_str());
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers_);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, stream->body.data());
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(stream->body.size()));
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &OnBytes);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, stream.get());
    running_.emplace(easy, std::move(stream));
    curl_multi_add_handle(multi_, easy);  // asks for a timer, with which the transfer begins
  }

  void Act(curl_socket_t socket, int what) {
    int still_running;
    curl_multi_socket_action(multi_, socket, what, &still_running);
  }

  void EndFinished() {
    int left;
    while (const CURLMsg* message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      CURL* const easy = message->easy_handle;
      const CURLcode code = message->data.result;  // the message is gone with the handle
      long http_status = 0;
      curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &http_status);
      const std::unique_ptr<HttpStream> stream = Take(running_.find(easy));
      stream->sink->OnEnd(stream->reader.End(code, http_status));
    }
  }

  void EndAll() {
    while (!running_.empty()) Take(running_.begin())->sink->OnEnd(Cancelled("CANCELLED", "the call was cancelled"));
  }

  std::unique_ptr<HttpStream> Take(Streams::iterator at) {
    std::unique_ptr<HttpStream> stream = std::move(at->second);
    curl_multi_remove_handle(multi_, at->first);
    running_.erase(at);
    return stream;
  }

  int MillisecondsToTimer() const {
    if (!timer_) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*timer_ - Clock::now());
    return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 60'000));
  }

  static int OnTimer(CURLM*, long milliseconds, void* self) {
    auto& timer = static_cast<HttpTarget*>(self)->timer_;
    timer.reset();
    if (milliseconds >= 0) timer = Clock::now() + std::chrono::milliseconds(milliseconds);
    return 0;
  }

  static int OnSocket(CURL*, curl_socket_t socket, int what, void* self, void*) {
    const int epoll = static_cast<HttpTarget*>(self)->epoll_;
    epoll_event event{.events = 0, .data = {.fd = socket}};
    if (what == CURL_POLL_REMOVE) return epoll_ctl(epoll, EPOLL_CTL_DEL, socket, &event), 0;
    if ((what & CURL_POLL_IN) != 0) event.events |= EPOLLIN;
    if ((what & CURL_POLL_OUT) != 0) event.events |= EPOLLOUT;
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, socket, &event) != 0) epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event);
    return 0;
  }

  const std::string url_;
  const int epoll_ = epoll_create1(EPOLL_CLOEXEC);
  const int wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  CURLM* const multi_ = curl_multi_init();
  curl_slist* headers_ = nullptr;
  Streams running_;
  std::optional<Clock::time_point> timer_;

  absl::Mutex mutex_;
  std::vector<std::unique_ptr<HttpStream>> arrived_ ABSL_GUARDED_BY(mutex_);
  bool cancel_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LoadTarget>> OpenHttpTarget(const std::string& address) {
  RETURN_IF_ERROR(CheckLoadAddress(address));
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return Internal("HTTP", "libcurl cannot be used here");
  return std::make_unique<HttpTarget>(address);
}

}  // namespace qamserve
