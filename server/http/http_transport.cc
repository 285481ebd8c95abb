#include "server/http/http_transport.h"

#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <boost/asio/ssl.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace qamserve {
namespace {

using asio::ip::tcp;
using ErrorCode = HttpTransport::ErrorCode;

class PlainTransport final : public HttpTransport {
 public:
  explicit PlainTransport(tcp::socket socket) : stream_(std::move(socket)) { socket_ = &stream_; }

  bool Handshake(std::function<void(ErrorCode)>) override { return false; }
  void ReadSome(asio::mutable_buffer buffer, Done done) override { stream_.async_read_some(buffer, std::move(done)); }
  void WriteSome(const Buffers& buffers, Done done) override { stream_.async_write_some(buffers, std::move(done)); }
  void ShutdownSend() override {
    ErrorCode ignored;
    stream_.shutdown(tcp::socket::shutdown_send, ignored);
  }

 private:
  tcp::socket stream_;
};

class TlsTransport final : public HttpTransport, public std::enable_shared_from_this<TlsTransport> {
 public:
  TlsTransport(tcp::socket socket, asio::ssl::context& context) : stream_(std::move(socket), context) {
    socket_ = &stream_.next_layer();
  }

  bool Handshake(std::function<void(ErrorCode)> done) override {
    stream_.async_handshake(asio::ssl::stream_base::server, std::move(done));
    return true;
  }
  void ReadSome(asio::mutable_buffer buffer, Done done) override { stream_.async_read_some(buffer, std::move(done)); }
  void WriteSome(const Buffers& buffers, Done done) override { stream_.async_write_some(buffers, std::move(done)); }
  // Ends once the client has said the same, or with the connection.
  void ShutdownSend() override {
    stream_.async_shutdown([self = shared_from_this()](ErrorCode) {});
  }

 private:
  asio::ssl::stream<tcp::socket> stream_;
};

absl::Status TlsError(std::string_view what, const ErrorCode& error) {
  return InvalidArgument("HTTP_TLS", "{}: {}", what, error.message());
}

asio::const_buffer BufferOf(const std::string& text) { return asio::buffer(text); }

// Tells clients whose certificates are taken; some choose theirs by it.
void NameAuthorities(SSL_CTX* context) {
  STACK_OF(X509_OBJECT)* objects = X509_STORE_get0_objects(SSL_CTX_get_cert_store(context));
  for (int i = 0; i < sk_X509_OBJECT_num(objects); ++i) {
    X509* certificate = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
    if (certificate != nullptr) SSL_CTX_add_client_CA(context, certificate);
  }
}

absl::Status AskForCertificates(const std::string& authorities_pem, asio::ssl::context& context) {
  ErrorCode error;
  context.add_certificate_authority(BufferOf(authorities_pem), error);
  if (error) return TlsError("the authorities of client certificates", error);
  context.set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert, error);
  if (error) return TlsError("client certificates", error);
  NameAuthorities(context.native_handle());
  // Without one a client that resumes a session is refused once certificates are asked for.
  static constexpr unsigned char kSessionContext[] = "qamserve";
  SSL_CTX_set_session_id_context(context.native_handle(), kSessionContext, sizeof(kSessionContext) - 1);
  return absl::OkStatus();
}

}  // namespace

void HttpTransport::WaitForFailure(std::function<void()> failed) {
  socket_->async_wait(tcp::socket::wait_error, [this, failed = std::move(failed)](ErrorCode error) {
    if (error) return;  // closed
    int failure = 0;
    socklen_t size = sizeof(failure);
    const int asked = getsockopt(socket_->native_handle(), SOL_SOCKET, SO_ERROR, &failure, &size);
    if (asked != 0 || failure != 0) return failed();
    WaitForFailure(failed);  // urgent data, which nobody wants
  });
}

void HttpTransport::Close(bool reset) {
  ErrorCode ignored;
  if (reset) socket_->set_option(asio::socket_base::linger(true, 0), ignored);
  socket_->close(ignored);
}

std::shared_ptr<HttpTransport> MakePlainTransport(tcp::socket socket) {
  return std::make_shared<PlainTransport>(std::move(socket));
}

std::shared_ptr<HttpTransport> MakeTlsTransport(tcp::socket socket, asio::ssl::context& context) {
  return std::make_shared<TlsTransport>(std::move(socket), context);
}

absl::StatusOr<std::shared_ptr<asio::ssl::context>> MakeTlsContext(const HttpTls& tls) {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
  ErrorCode error;
  // Otherwise OpenSSL asks the terminal.
  context->set_password_callback([](size_t, asio::ssl::context::password_purpose) { return std::string(); }, error);
  if (error) return TlsError("password callback", error);
  context->use_certificate_chain(BufferOf(tls.certificate_pem), error);
  if (error) return TlsError("the certificate", error);
  context->use_private_key(BufferOf(tls.key_pem), asio::ssl::context::pem, error);
  if (error) return TlsError("the key", error);
  if (SSL_CTX_check_private_key(context->native_handle()) != 1) {
    return InvalidArgument("HTTP_TLS", "the key is not that of the certificate");
  }
  if (!tls.client_ca_pem.empty()) RETURN_IF_ERROR(AskForCertificates(tls.client_ca_pem, *context));
  return context;
}

}  // namespace qamserve
