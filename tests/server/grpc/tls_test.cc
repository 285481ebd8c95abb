// TLS and mutual TLS on the gRPC port, and certificates that change while it listens.
#include <gmock/gmock.h>

#include "tests/server/grpc/server_fixture.h"
#include "tests/support/test_certificates.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class TlsTest : public ServerFixture {
 protected:
  TlsTest() {
    ca_.Sign("server");
    ca_.Sign("client");
    other_.Sign("other-server");
    other_.Sign("other-client");
    Install("server");
    InstallClientCa(ca_);
    parts_.tls_reload_interval = absl::Milliseconds(5);
  }

  ServerOptions Options() const override {
    ServerOptions options = ServerFixture::Options();
    options.tls_cert = dir_ / "live.crt";
    options.tls_key = dir_ / "live.key";
    if (mutual_) options.tls_client_ca = dir_ / "live-ca.crt";
    return options;
  }

  void Install(const std::string& name) {
    ASSERT_TRUE(WriteFileAtomically(dir_ / "live.crt", ReadText(dir_ / (name + ".crt"))).ok());
    ASSERT_TRUE(WriteFileAtomically(dir_ / "live.key", ReadText(dir_ / (name + ".key"))).ok());
  }
  void InstallClientCa(const TestCa& ca) {
    ASSERT_TRUE(WriteFileAtomically(dir_ / "live-ca.crt", ReadText(ca.certificate())).ok());
  }

  // One call over a connection of its own, to a server whose certificate `ca` must have signed.
  grpc::Status Ask(const TestCa& ca, const std::string& client = "") const {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = ReadText(ca.certificate());
    if (!client.empty()) {
      ssl.pem_cert_chain = ReadText(dir_ / (client + ".crt"));
      ssl.pem_private_key = ReadText(dir_ / (client + ".key"));
    }
    return AskOver(grpc::SslCredentials(ssl));
  }
  grpc::Status AskOver(const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // otherwise channels share connections
    const auto stub = v1::JobService::NewStub(grpc::CreateCustomChannel(server_->address(), credentials, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    v1::ListJobsResponse response;
    return stub->ListJobs(&context, v1::ListJobsRequest(), &response);
  }
  // Until the server has read its files again; each try is a handshake.
  template <typename Try>
  static bool Soon(Try attempt) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < end) {
      if (attempt()) return true;
    }
    return false;
  }

  TestCa ca_{dir_.path(), "ca"};
  TestCa other_{dir_.path(), "other-ca"};
  bool mutual_ = false;
};

TEST_F(TlsTest, EncryptsAndIsTrustedByItsCaAlone) {
  EXPECT_TRUE(Ask(ca_).ok()) << Ask(ca_).error_message();
  EXPECT_EQ(Ask(other_).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(AskOver(grpc::InsecureChannelCredentials()).ok());
}

TEST_F(TlsTest, MutualTlsAsksForACertificateOfTheClientCa) {
  mutual_ = true;
  Restart();
  EXPECT_TRUE(Ask(ca_, "client").ok()) << Ask(ca_, "client").error_message();
  EXPECT_EQ(Ask(ca_).error_code(), grpc::StatusCode::UNAVAILABLE) << "without a certificate";
  EXPECT_EQ(Ask(ca_, "other-client").error_code(), grpc::StatusCode::UNAVAILABLE) << "of another CA";
}

TEST_F(TlsTest, ANewCertificateIsUsedWithoutARestart) {
  ASSERT_TRUE(Ask(ca_).ok());
  // Half of it first: what was there goes on.
  ASSERT_TRUE(WriteFileAtomically(dir_ / "live.crt", ReadText(dir_ / "other-server.crt")).ok());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Ask(ca_).ok());
  Install("other-server");
  EXPECT_TRUE(Soon([&] { return Ask(other_).ok(); }));
  EXPECT_FALSE(Ask(ca_).ok());
}

TEST_F(TlsTest, ANewClientCaIsUsedWithoutARestart) {
  mutual_ = true;
  Restart();
  ASSERT_TRUE(Ask(ca_, "client").ok());
  ASSERT_FALSE(Ask(ca_, "other-client").ok());
  InstallClientCa(other_);
  EXPECT_TRUE(Soon([&] { return Ask(ca_, "other-client").ok(); }));
  EXPECT_FALSE(Ask(ca_, "client").ok());
}

TEST_F(TlsTest, FilesThatDoNotBelongTogetherKeepItFromStarting) {
  server_.reset();
  ASSERT_TRUE(WriteFileAtomically(dir_ / "live.key", ReadText(dir_ / "other-server.key")).ok());
  const absl::Status status = Server::Start(Options(), Log::Silent()).status();
  EXPECT_EQ(ReasonOf(status), "TLS_KEY");
  EXPECT_THAT(MessageOf(status), HasSubstr(dir_ / "live.key"));
}

// Other machines could reach 0.0.0.0: with TLS it takes keys, or certificates of clients, or the flag.
TEST_F(TlsTest, ReachesOutOnlyWhereSomebodyIsAskedWhoTheyAre) {
  server_.reset();
  ServerOptions options = Options();
  options.listen = "0.0.0.0:0";
  const absl::Status refused = Server::Start(options, Log::Silent()).status();
  EXPECT_EQ(ReasonOf(refused), "REMOTE_WITHOUT_KEYS");
  EXPECT_THAT(MessageOf(refused), HasSubstr("qamctl keys create"));
  options.tls_client_ca = dir_ / "live-ca.crt";
  EXPECT_TRUE(Server::Start(options, Log::Silent()).ok());
  options.tls_client_ca = "";
  options.insecure_allow_remote = true;
  EXPECT_TRUE(Server::Start(options, Log::Silent()).ok());
  options.insecure_allow_remote = false;
  options.admin_key = "the-key-of-the-cluster-0123456789";
  EXPECT_TRUE(Server::Start(options, Log::Silent()).ok());
  options.tls_cert = options.tls_key = "";
  const absl::Status plain = Server::Start(options, Log::Silent()).status();
  EXPECT_EQ(ReasonOf(plain), "REMOTE_ADDRESS");
  EXPECT_THAT(MessageOf(plain), HasSubstr("nothing is encrypted"));
}

}  // namespace
}  // namespace qamserve
