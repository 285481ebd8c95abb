// The bytes of one connection, plain or TLS, behind one interface of callbacks. Everything on the loop's thread.
#pragma once

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>

#include "server/http/http_loop.h"
#include "server/http/http_server.h"

namespace boost::asio::ssl {
class context;
}

namespace qamserve {

class HttpTransport {
 public:
  using ErrorCode = boost::system::error_code;
  using Done = std::function<void(ErrorCode, size_t)>;
  using Buffers = std::array<asio::const_buffer, 4>;  // unused ones are empty

  virtual ~HttpTransport() = default;
  // The TLS handshake. False: there is none to wait for, and `done` is not called.
  virtual bool Handshake(std::function<void(ErrorCode)> done) = 0;
  // At most one read and one write at a time; what they point to must stay until `done`.
  virtual void ReadSome(asio::mutable_buffer buffer, Done done) = 0;
  virtual void WriteSome(const Buffers& buffers, Done done) = 0;
  // Says that no more will be sent; no write may be under way, a read may. Nobody hears how it went.
  virtual void ShutdownSend() = 0;

  asio::ip::tcp::socket& socket() { return *socket_; }
  // `failed`, which keeps the transport alive, is called when the connection breaks, whether or not there is a read.
  void WaitForFailure(std::function<void()> failed);
  // What is under way ends with an error. `reset`: the client is told at once that what it got is not all.
  void Close(bool reset);

 protected:
  asio::ip::tcp::socket* socket_ = nullptr;
};

std::shared_ptr<HttpTransport> MakePlainTransport(asio::ip::tcp::socket socket);
std::shared_ptr<HttpTransport> MakeTlsTransport(asio::ip::tcp::socket socket, asio::ssl::context& context);

// TLS 1.2 and 1.3. INVALID_ARGUMENT (HTTP_TLS).
absl::StatusOr<std::shared_ptr<asio::ssl::context>> MakeTlsContext(const HttpTls& tls);

}  // namespace qamserve
