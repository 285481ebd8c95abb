// An OpenTelemetry collector on loopback for tests: keeps what is posted to it, and answers as it is told. One
// connection and request at a time. Stops with the object.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace qamserve {

class OtlpCollector {
 public:
  // Gives the status of the answer to request number 1, 2, ...; 0 = the connection is closed without one. May take its
  // time.
  using Answer = std::function<int(int number)>;

  explicit OtlpCollector(Answer answer = [](int) { return 200; })
      : answer_(std::move(answer)), fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (bind(fd_, generic, size) != 0 || listen(fd_, 64) != 0) std::abort();
    getsockname(fd_, generic, &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] {
      while (!stopping_) Serve(accept(fd_, nullptr, nullptr));
    });
  }
  ~OtlpCollector() {
    stopping_ = true;
    shutdown(fd_, SHUT_RDWR);
    thread_.join();
    close(fd_);
  }
  OtlpCollector(const OtlpCollector&) = delete;
  OtlpCollector& operator=(const OtlpCollector&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }

  std::vector<std::string> heads() {
    const std::lock_guard lock(mutex_);
    return heads_;
  }
  std::vector<std::string> bodies() {
    const std::lock_guard lock(mutex_);
    return bodies_;
  }
  // Of requests that were answered well.
  std::vector<nlohmann::json> spans() {
    const std::lock_guard lock(mutex_);
    return SpansLocked();
  }
  // False after 20 seconds.
  bool WaitForSpans(size_t count) {
    std::unique_lock lock(mutex_);
    return arrived_.wait_for(lock, std::chrono::seconds(20), [&] { return SpansLocked().size() >= count; });
  }
  // Those that `is_one` holds for, once there is one.
  std::vector<nlohmann::json> WaitFor(const std::function<bool(const nlohmann::json&)>& is_one) {
    std::unique_lock lock(mutex_);
    std::vector<nlohmann::json> found;
    arrived_.wait_for(lock, std::chrono::seconds(20), [&] {
      for (const nlohmann::json& span : SpansLocked()) {
        if (is_one(span)) found.push_back(span);
      }
      return !found.empty();
    });
    return found;
  }

 private:
  void Serve(int connection) {
    if (connection < 0) return;
    std::string text;
    char buffer[16384];
    size_t body = std::string::npos, wanted = std::string::npos;
    while (text.size() < wanted) {
      const ssize_t got = recv(connection, buffer, sizeof(buffer), 0);
      if (got <= 0) break;
      text.append(buffer, static_cast<size_t>(got));
      if (body != std::string::npos || text.find("\r\n\r\n") == std::string::npos) continue;
      body = text.find("\r\n\r\n") + 4;
      const size_t length = text.find("Content-Length: ");
      wanted = body + (length < body ? std::strtoul(text.c_str() + length + 16, nullptr, 10) : 0);
      // libcurl asks before it sends a large body.
      if (text.find("Expect: 100-continue") < body) Send(connection, "HTTP/1.1 100 Continue\r\n\r\n");
    }
    if (text.size() >= wanted) Respond(connection, text.substr(0, body), text.substr(body));
    close(connection);
  }

  void Respond(int connection, std::string head, std::string body) {
    const int status = answer_(++requests_);
    {
      const std::lock_guard lock(mutex_);
      heads_.push_back(std::move(head));
      if (status == 200) bodies_.push_back(std::move(body));
    }
    arrived_.notify_all();
    if (status == 0) return;
    Send(connection, "HTTP/1.1 " + std::to_string(status) + " x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
  }

  static void Send(int connection, const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t n = send(connection, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return;
      sent += static_cast<size_t>(n);
    }
  }

  std::vector<nlohmann::json> SpansLocked() const {
    std::vector<nlohmann::json> spans;
    for (const std::string& body : bodies_) {
      const nlohmann::json request = nlohmann::json::parse(body);
      for (const nlohmann::json& resource : request.at("resourceSpans")) {
        for (const nlohmann::json& scope : resource.at("scopeSpans")) {
          for (const nlohmann::json& span : scope.at("spans")) spans.push_back(span);
        }
      }
    }
    return spans;
  }

  const Answer answer_;
  const int fd_;
  int port_ = 0;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<std::string> heads_;
  std::vector<std::string> bodies_;
  int requests_ = 0;  // of the thread
  std::thread thread_;
};

// The value of an attribute of a span as OTLP's JSON has it, whatever its type; empty if it is not there.
inline std::string AttributeOf(const nlohmann::json& span, const std::string& key) {
  for (const nlohmann::json& attribute : span.at("attributes")) {
    if (attribute.at("key") != key) continue;
    const nlohmann::json& value = attribute.at("value").begin().value();
    return value.is_string() ? value.get<std::string>() : value.dump();
  }
  return "";
}

}  // namespace qamserve
