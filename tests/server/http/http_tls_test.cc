// TLS and mutual TLS with certificates made here by the openssl program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/wait.h>

#include <cstdlib>

#include "core/base/file.h"
#include "tests/server/http/http_fixture.h"
#include "tests/support/temp_folder.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class HttpTlsTest : public HttpFixture {
 protected:
  void SetUp() override {
    Run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=authority -keyout ca.key -out "
        "ca.pem");
    Issue("one");
    Issue("two");
    Issue("client");
    Run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=stranger -keyout stranger.key "
        "-out stranger.pem");
  }

  void Run(const std::string& arguments) const {
    const std::string command = "cd " + dir_.path() + " && openssl " + arguments + " >openssl.log 2>&1";
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  // A key and a certificate of the authority for `name`.
  void Issue(const std::string& name) const {
    Run("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=" + name + " -keyout " + name + ".key -out " +
        name + ".csr");
    Run("x509 -req -in " + name + ".csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -out " + name + ".pem");
  }
  std::string Read(const std::string& file) const { return ReadFile(dir_ / file, 1 << 20).value_or(""); }
  HttpTls Tls(const std::string& name, bool mutual = false) const {
    return {Read(name + ".pem"), Read(name + ".key"), mutual ? Read("ca.pem") : ""};
  }
  void StartTls(const HttpTls& tls) {
    HttpServerOptions options = Options();
    options.tls = tls;
    Start(options);
  }

  struct TlsAnswer {
    std::string text;    // all up to the end
    std::string peer;    // name in the server's certificate
    bool ended = false;  // the server said that this is all (close_notify)
  };
  // What a client that trusts the authority gets for `request`; `certificate` = its own, "" = none.
  TlsAnswer Ask(const std::string& request, const std::string& certificate = "",
                int max_version = TLS1_3_VERSION) const {
    TlsAnswer answer;
    RawClient client(port());
    SSL_CTX* context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(context, max_version);
    SSL_CTX_load_verify_locations(context, (dir_ / "ca.pem").c_str(), nullptr);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
    if (!certificate.empty()) {
      SSL_CTX_use_certificate_file(context, (dir_ / (certificate + ".pem")).c_str(), SSL_FILETYPE_PEM);
      SSL_CTX_use_PrivateKey_file(context, (dir_ / (certificate + ".key")).c_str(), SSL_FILETYPE_PEM);
    }
    SSL* ssl = SSL_new(context);
    SSL_set_fd(ssl, client.fd());
    if (SSL_connect(ssl) == 1) {
      X509* peer = SSL_get1_peer_certificate(ssl);
      char name[64] = "";
      X509_NAME_get_text_by_NID(X509_get_subject_name(peer), NID_commonName, name, sizeof(name));
      answer.peer = name;
      X509_free(peer);
      SSL_write(ssl, request.data(), static_cast<int>(request.size()));
      char buffer[4096];
      int n = 0;
      while ((n = SSL_read(ssl, buffer, sizeof(buffer))) > 0) answer.text.append(buffer, static_cast<size_t>(n));
      answer.ended = SSL_get_error(ssl, n) == SSL_ERROR_ZERO_RETURN;
    }
    SSL_free(ssl);
    SSL_CTX_free(context);
    ERR_clear_error();
    return answer;
  }

  TempFolder dir_;
};

constexpr char kGet[] = "GET /hello?tls HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

TEST_F(HttpTlsTest, SpeaksTls) {
  StartTls(Tls("one"));
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const TlsAnswer answer = Ask(kGet, "", version);
    EXPECT_EQ(answer.peer, "one");
    EXPECT_THAT(answer.text, HasSubstr("GET /hello tls"));
    EXPECT_TRUE(answer.ended);
  }
  EXPECT_EQ(Ask(kGet, "", TLS1_1_VERSION).peer, "");
  // A body and an answer of several records.
  const std::string body(300'000, 'b');
  const std::string post =
      "POST /count HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n" + body;
  EXPECT_THAT(Ask(post).text, HasSubstr("\r\n\r\n300000"));
  EXPECT_THAT(Ask("nonsense\r\n\r\n").text, HasSubstr("HTTP_REQUEST_LINE"));
}

TEST_F(HttpTlsTest, PlainRequestsAndSlowHandshakesAreCutOff) {
  limits_.head_ms = 100;
  StartTls(Tls("one"));
  RawClient plain(port());
  plain.Send(kGet);
  EXPECT_EQ(plain.ReadAnswer().status, 0);
  RawClient silent(port());
  EXPECT_TRUE(silent.Ends());
  EXPECT_TRUE(WaitForConnections(0));
  EXPECT_THAT(Ask(kGet).text, HasSubstr("GET /hello tls"));
}

TEST_F(HttpTlsTest, MutualTlsAsksForACertificateOfTheAuthority) {
  StartTls(Tls("one", true));
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    EXPECT_EQ(Ask(kGet, "", version).text, "") << "no certificate";
    EXPECT_EQ(Ask(kGet, "stranger", version).text, "");
    EXPECT_THAT(Ask(kGet, "client", version).text, HasSubstr("GET /hello tls"));
  }
}

TEST_F(HttpTlsTest, NewCertificatesServeNewConnections) {
  StartTls(Tls("one"));
  EXPECT_EQ(Ask(kGet).peer, "one");
  EXPECT_TRUE(server_->ReloadTls(Tls("two")).ok());
  EXPECT_EQ(Ask(kGet).peer, "two");
  HttpTls bad = Tls("one");
  bad.key_pem = Read("two.key");
  EXPECT_EQ(ReasonOf(server_->ReloadTls(bad)), "HTTP_TLS") << "another certificate's key";
  EXPECT_EQ(Ask(kGet).peer, "two") << "what was good stays";
  EXPECT_TRUE(server_->ReloadTls(Tls("two", true)).ok());
  EXPECT_EQ(Ask(kGet).text, "");
  EXPECT_THAT(Ask(kGet, "client").text, HasSubstr("GET /hello tls"));
}

TEST_F(HttpTlsTest, SaysWhatIsWrongWithItsFiles) {
  const auto error = [this](const HttpTls& tls) {
    HttpServerOptions options = Options();
    options.tls = tls;
    const absl::Status status = HttpServer::Start(options).status();
    return ReasonOf(status) + ": " + MessageOf(status);
  };
  HttpTls tls = Tls("one");
  tls.certificate_pem = "not a certificate";
  EXPECT_THAT(error(tls), testing::StartsWith("HTTP_TLS: the certificate"));
  tls = Tls("one");
  tls.key_pem = "";
  EXPECT_THAT(error(tls), testing::StartsWith("HTTP_TLS: the key"));
  tls = Tls("one");
  tls.client_ca_pem = "not a certificate";
  EXPECT_THAT(error(tls), testing::StartsWith("HTTP_TLS: the authorities"));
  Run("ec -in one.key -aes256 -passout pass:secret -out locked.key");
  tls = Tls("one");
  tls.key_pem = Read("locked.key");
  EXPECT_THAT(error(tls), testing::StartsWith("HTTP_TLS: the key")) << "nobody is asked for a password";
}

}  // namespace
}  // namespace qamserve
