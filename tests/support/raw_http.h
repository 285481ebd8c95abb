// A client that sends bytes as they are given, for tests of what a server does with them. Waits at most 30 seconds for
// anything; what does not come fails the test.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

namespace qamserve {

struct RawAnswer {
  int status = 0;  // 0: none came
  std::string head;
  std::string body;  // chunks put together

  // Value of a field, written as given; "" if it is not there.
  std::string field(std::string_view name) const {
    const std::string start = "\r\n" + std::string(name) + ": ";
    const size_t at = head.find(start);
    if (at == std::string::npos) return "";
    return head.substr(at + start.size(), head.find("\r\n", at + start.size()) - at - start.size());
  }
};

class RawClient {
 public:
  // `receive_bytes` > 0 makes the socket's receive buffer small.
  explicit RawClient(int port, int receive_bytes = 0) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (receive_bytes > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) Close();
  }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;
  RawClient(RawClient&& other) noexcept : fd_(std::exchange(other.fd_, -1)), in_(std::move(other.in_)) {}
  ~RawClient() { Close(); }

  bool connected() const { return fd_ >= 0; }
  int fd() const { return fd_; }

  // False if the connection broke or nothing could be sent for `patience_ms`; `sent` gets how much went.
  bool Send(std::string_view bytes, int patience_ms = 30'000, size_t* sent = nullptr) {
    size_t at = 0;
    while (at < bytes.size() && Ready(POLLOUT, patience_ms)) {
      const ssize_t n = send(fd_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n <= 0) break;
      at += static_cast<size_t>(n);
    }
    if (sent != nullptr) *sent = at;
    return at == bytes.size();
  }

  // All up to the end of `text`; shorter if the server closed.
  std::string ReadUntil(std::string_view text) {
    size_t at = in_.find(text);
    while (at == std::string::npos && More()) at = in_.find(text);
    return Take(at == std::string::npos ? in_.size() : at + text.size());
  }
  // What comes until the server closes.
  std::string ReadToEnd() {
    while (More()) {
    }
    return Take(in_.size());
  }
  // One answer: by its length, its chunks, or until the server closes. Interim answers (1xx) count as such.
  RawAnswer ReadAnswer(bool to_head = false) {
    RawAnswer answer;
    answer.head = ReadUntil("\r\n\r\n");
    if (answer.head.size() < 12) return answer;
    answer.status = std::atoi(answer.head.c_str() + 9);
    if (to_head || answer.status < 200 || answer.status == 204 || answer.status == 304) return answer;
    if (answer.field("Transfer-Encoding") == "chunked") {
      answer.body = ReadChunks();
    } else if (const std::string length = answer.field("Content-Length"); !length.empty()) {
      const size_t bytes = std::strtoull(length.c_str(), nullptr, 10);
      while (in_.size() < bytes && More()) {
      }
      answer.body = Take(std::min(bytes, in_.size()));
    } else {
      answer.body = ReadToEnd();
    }
    return answer;
  }
  // Whether the server closes without another byte.
  bool Ends() { return ReadToEnd().empty(); }

  void EndSending() { shutdown(fd_, SHUT_WR); }
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  void Reset() {
    const linger now{.l_onoff = 1, .l_linger = 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    Close();
  }

 private:
  bool Ready(short event, int patience_ms) const {
    pollfd poll_fd{.fd = fd_, .events = event, .revents = 0};
    return fd_ >= 0 && poll(&poll_fd, 1, patience_ms) == 1;
  }
  bool More() {
    if (fd_ < 0) return false;
    if (!Ready(POLLIN, 30'000)) {
      ADD_FAILURE() << "nothing came for 30 seconds; so far: " << in_.substr(0, 1000);
      return false;
    }
    char buffer[64 << 10];
    const ssize_t n = recv(fd_, buffer, sizeof(buffer), 0);
    if (n <= 0) return false;
    in_.append(buffer, static_cast<size_t>(n));
    return true;
  }
  std::string Take(size_t bytes) {
    std::string taken = in_.substr(0, bytes);
    in_.erase(0, bytes);
    return taken;
  }
  std::string ReadChunks() {
    std::string body;
    while (true) {
      const std::string line = ReadUntil("\r\n");
      const size_t bytes = std::strtoull(line.c_str(), nullptr, 16);
      if (line.empty() || bytes == 0) break;
      while (in_.size() < bytes + 2 && More()) {
      }
      body += Take(std::min(bytes, in_.size()));
      Take(2);
    }
    if (ReadUntil("\r\n") != "\r\n") body += "(the last chunk is missing)";
    return body;
  }

  int fd_;
  std::string in_;  // came and was not taken
};

// The answer to GET `path` of 127.0.0.1:`port`, over a connection of its own.
inline RawAnswer HttpGet(int port, std::string_view path) {
  RawClient client(port);
  client.Send("GET " + std::string(path) + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  return client.ReadAnswer();
}

}  // namespace qamserve
