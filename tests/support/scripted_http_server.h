// An HTTP server on loopback whose every answer a test writes itself, byte by byte if it likes, so that it can send
// half of one and hang up. One connection and request at a time a thread. Stops with the object.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace qamserve {

class ScriptedHttpServer {
 public:
  // Gets the request's head, once its body has come, and gives all bytes that are sent before the connection is closed.
  using Script = std::function<std::string(const std::string& head)>;

  explicit ScriptedHttpServer(Script script) : script_(std::move(script)), fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(fd_, generic, size) != 0 || ::listen(fd_, 64) != 0) std::abort();
    ::getsockname(fd_, generic, &size);
    port_ = ntohs(address.sin_port);
    accepting_ = std::thread([this] { Accept(); });
  }
  ~ScriptedHttpServer() {
    stopping_ = true;
    ::shutdown(fd_, SHUT_RDWR);
    ::close(fd_);
    accepting_.join();
    for (std::thread& thread : serving_) thread.join();
  }
  ScriptedHttpServer(const ScriptedHttpServer&) = delete;
  ScriptedHttpServer& operator=(const ScriptedHttpServer&) = delete;

  static std::string FieldOf(const std::string& head, const std::string& name) {
    const size_t at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const size_t begin = at + name.size() + 4;
    return head.substr(begin, head.find("\r\n", begin) - begin);
  }

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  // Heads of all requests, in the order in which they came.
  std::vector<std::string> requests() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  // Their bodies, likewise.
  std::vector<std::string> bodies() {
    const std::lock_guard lock(mutex_);
    return bodies_;
  }

 private:
  void Accept() {
    while (!stopping_) {
      const int connection = ::accept(fd_, nullptr, nullptr);
      if (connection < 0) continue;
      serving_.emplace_back([this, connection] { Serve(connection); });
    }
  }

  static constexpr char kContinue[] = "HTTP/1.1 100 Continue\r\n\r\n";

  void Serve(int connection) {
    std::string head;
    char buffer[4096];
    size_t end = std::string::npos;
    while ((end = head.find("\r\n\r\n")) == std::string::npos) {
      const ssize_t got = ::recv(connection, buffer, sizeof(buffer), 0);
      if (got <= 0) break;
      head.append(buffer, static_cast<size_t>(got));
    }
    std::string body;
    if (end != std::string::npos) {
      body = head.substr(end + 4);
      head.resize(end + 4);
    }
    const std::string length = FieldOf(head, "Content-Length");
    if (!FieldOf(head, "Expect").empty()) ::send(connection, kContinue, sizeof(kContinue) - 1, MSG_NOSIGNAL);
    while (!length.empty() && body.size() < std::stoul(length)) {
      const ssize_t got = ::recv(connection, buffer, sizeof(buffer), 0);
      if (got <= 0) break;
      body.append(buffer, static_cast<size_t>(got));
    }
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(head);
      bodies_.push_back(std::move(body));
    }
    const std::string answer = script_(head);
    for (size_t sent = 0; sent < answer.size();) {
      const ssize_t n = ::send(connection, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    ::close(connection);
  }

  const Script script_;
  const int fd_;
  int port_ = 0;
  std::atomic<bool> stopping_{false};
  std::thread accepting_;
  std::vector<std::thread> serving_;
  std::mutex mutex_;
  std::vector<std::string> requests_;
  std::vector<std::string> bodies_;
};

// The value of a header of a head; empty if it is not there.
inline std::string HeaderOf(const std::string& head, const std::string& name) {
  return ScriptedHttpServer::FieldOf(head, name);
}
inline std::string TargetOf(const std::string& head) {
  const size_t begin = head.find(' ') + 1;
  return head.substr(begin, head.find(' ', begin) - begin);
}
inline std::string HttpAnswer(int status, std::string_view body, std::string_view more_headers = "") {
  return "HTTP/1.1 " + std::to_string(status) + " x\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
         std::string(more_headers) + "Connection: close\r\n\r\n" + std::string(body);
}

}  // namespace qamserve
