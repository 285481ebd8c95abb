// keys, audit, whoami, system, and what qamctl shows a server of itself.
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <cstdlib>

#include "tests/client/fake_access.h"
#include "tests/client/qamctl_fixture.h"
#include "tests/support/test_certificates.h"

namespace qamserve::qamctl {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr char kSecretLine[] = "qsk-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ\n";

class QamctlAccessTest : public QamctlTest {
 protected:
  ~QamctlAccessTest() override { unsetenv(kApiKeyVariable); }
  FakeAccessState& access() { return server_.access(); }
};

TEST_F(QamctlAccessTest, AKeyIsMadeAndOnlyItsSecretIsOnTheOutput) {
  const Result result =
      Run({"keys", "create", "ci", "--scope", "read,infer", "--ttl", "30d", "--requests-per-minute", "60",
           "--tokens-per-minute", "1000", "--concurrent-requests", "4", "--upload-bytes-per-day", "5G"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(result.out, kSecretLine);
  EXPECT_THAT(result.err, AllOf(HasSubstr("keys/01234567890"), HasSubstr("read,infer"), HasSubstr("not shown again"),
                                Not(HasSubstr("qsk-abcde"))));
  const v1::CreateKeyRequest& request = access().create;
  EXPECT_EQ(request.display_name(), "ci");
  EXPECT_THAT(request.scopes(), ElementsAre(v1::SCOPE_READ, v1::SCOPE_INFER));
  EXPECT_EQ(request.ttl_seconds(), 30 * 24 * 3600);
  EXPECT_EQ(request.limits().requests_per_minute(), 60);
  EXPECT_EQ(request.limits().tokens_per_minute(), 1000);
  EXPECT_EQ(request.limits().concurrent_requests(), 4);
  EXPECT_EQ(request.limits().upload_bytes_per_day(), int64_t{5} << 30);
  EXPECT_FALSE(request.request_id().empty());
  for (const char* ttl : {"x", "3w", "-1d", "1.5h", "99999999999999d"}) {
    const Result bad = Run({"keys", "create", "ci", "--scope", "read", "--ttl", ttl});
    EXPECT_EQ(bad.code, kExitUsage) << ttl;
    EXPECT_THAT(bad.err, HasSubstr("--ttl"));
  }
  EXPECT_EQ(Run({"keys", "create", "ci", "--scope", "boss"}).code, kExitUsage);
  EXPECT_EQ(Run({"keys", "create", "ci"}).code, kExitUsage);
  EXPECT_EQ(Run({"keys", "create", "ci", "--scope", "read", "--requests-per-minute", "-1"}).code, kExitUsage);
}

TEST_F(QamctlAccessTest, KeysAreListedShownRotatedRevokedAndDeleted) {
  EXPECT_THAT(Run({"keys"}).err, HasSubstr("qamctl keys create"));
  ASSERT_EQ(Run({"keys", "create", "first", "--scope", "admin"}).code, kExitOk);
  ASSERT_EQ(Run({"keys", "create", "second", "--scope", "infer", "--requests-per-minute", "9"}).code, kExitOk);
  const Result list = Run({"keys", "list"});
  EXPECT_THAT(list.out, AllOf(HasSubstr("first"), HasSubstr("admin"), HasSubstr("VALID"), HasSubstr("qsk-abcd"),
                              HasSubstr("9 requests/min")));
  EXPECT_THAT(Run({"keys", "get", "second"}).out, AllOf(HasSubstr("keys/01234567891"), HasSubstr("infer")));
  const Result rotated = Run({"keys", "rotate", "01234567891", "--grace", "12h"});
  EXPECT_EQ(rotated.out, kSecretLine);
  EXPECT_THAT(rotated.err, HasSubstr("valid until 2026-01-01 00:00:00 UTC"));
  EXPECT_EQ(access().rotate.grace_seconds(), 12 * 3600);
  EXPECT_EQ(access().rotate.name(), "keys/01234567891");
  EXPECT_EQ(Run({"keys", "revoke", "second"}).out, "revoked keys/01234567891\n");
  EXPECT_EQ(Run({"keys", "delete", "keys/01234567891"}).out, "deleted keys/01234567891\n");
  const Result gone = Run({"keys", "get", "second"});
  EXPECT_EQ(gone.code, kExitNotFound);
  EXPECT_THAT(gone.err, AllOf(HasSubstr("KEY_NOT_FOUND"), HasSubstr("qamctl keys")));
}

TEST_F(QamctlAccessTest, AuditFollowsPagesUpToItsLimit) {
  for (int i = 0; i < 5; ++i) {
    v1::AuditEvent event;
    event.set_sequence(5 - i);
    event.set_method("JobService.DeleteJob");
    event.set_resource("jobs/" + std::to_string(i));
    event.set_code(i == 0 ? "PERMISSION_DENIED" : "OK");
    event.set_reason(i == 0 ? "KEY_SCOPE" : "");
    event.set_peer("10.0.0.1:5");
    access().events.push_back(event);
  }
  const Result all = Run({"audit"});
  EXPECT_THAT(all.out, AllOf(HasSubstr("jobs/4"), HasSubstr("KEY_SCOPE"), HasSubstr("10.0.0.1:5")));
  const Result some = Run({"audit", "--limit", "3", "--key", "gone1234"});
  EXPECT_THAT(some.out, AllOf(HasSubstr("jobs/2"), Not(HasSubstr("jobs/3"))));
  EXPECT_EQ(access().audit.key(), "keys/gone1234") << "a key that was deleted can still be asked for";
  EXPECT_EQ(Run({"audit", "--limit", "0"}).code, kExitUsage);
}

TEST_F(QamctlAccessTest, WhoamiAndSystem) {
  EXPECT_THAT(Run({"whoami"}).out, HasSubstr("no keys"));
  access().has_caller = true;
  EXPECT_THAT(Run({"whoami"}).out, AllOf(HasSubstr("keys/me"), HasSubstr("7 tokens this minute"),
                                         HasSubstr("1.0 MiB to upload today"), Not(HasSubstr("requests"))));
  EXPECT_THAT(Run({"system"}).out, AllOf(HasSubstr("1.2.3"), HasSubstr("api, worker"), HasSubstr("3 running"),
                                         HasSubstr("5.0 GiB of 9.0 GiB"), HasSubstr("required")));
}

TEST_F(QamctlAccessTest, TheKeyComesFromAFileOrFromTheEnvironment) {
  ASSERT_EQ(Run({"whoami"}).code, kExitOk);
  EXPECT_EQ(access().authorization, "");
  setenv(kApiKeyVariable, "qsk-env", 1);
  ASSERT_EQ(Run({"whoami"}).code, kExitOk);
  EXPECT_EQ(access().authorization, "Bearer qsk-env");
  const std::string file = WriteFile("key", "qsk-file\n");
  ASSERT_EQ(Run({"whoami", "--api-key-file", file}).code, kExitOk);
  EXPECT_EQ(access().authorization, "Bearer qsk-file");
  setenv(kApiKeyVariable, "two words", 1);
  const Result bad = Run({"whoami"});
  EXPECT_EQ(bad.code, kExitFailed);
  EXPECT_THAT(bad.err, AllOf(HasSubstr("QAMCTL_API_KEY"), HasSubstr("API_KEY"), Not(HasSubstr("two words"))));
  EXPECT_EQ(Run({"whoami", "--api-key-file", folder_ / "absent"}).code, kExitNotFound);
  const std::string empty = WriteFile("empty", "\n");
  EXPECT_THAT(Run({"whoami", "--api-key-file", empty}).err, HasSubstr("no API key"));
}

TEST_F(QamctlAccessTest, AKeyThatNoHeaderCanCarryIsOnlyWrong) {
  ClientOptions options;
  options.address = server_.address();
  options.api_key = "a\nb";
  Client client(options);
  ASSERT_TRUE(client.GetCaller().ok());
  EXPECT_EQ(access().authorization, "Bearer a?b");
}

TEST_F(QamctlAccessTest, SpeaksTlsAndShowsItsCertificate) {
  const TestCa ca(folder_.path(), "ca");
  const TestCa other(folder_.path(), "other");
  ca.Sign("server");
  ca.Sign("client");
  grpc::SslServerCredentialsOptions ssl(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = ReadText(ca.certificate());
  ssl.pem_key_cert_pairs.push_back({ReadText(folder_ / "server.key"), ReadText(folder_ / "server.crt")});
  FakeSystem system;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(ssl), &port);
  builder.RegisterService(&system);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const auto run = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"system", "--timeout", "20", "--address", "127.0.0.1:" + std::to_string(port)});
    return RunBare(flags);
  };
  const std::string cert = folder_ / "client.crt";
  const std::string key = folder_ / "client.key";
  EXPECT_THAT(run({"--tls-ca", ca.certificate(), "--tls-cert", cert, "--tls-key", key}).out, HasSubstr("1.2.3"));
  EXPECT_EQ(run({"--tls-ca", ca.certificate()}).code, kExitUnavailable) << "no client certificate";
  EXPECT_EQ(run({"--tls-ca", other.certificate(), "--tls-cert", cert, "--tls-key", key}).code, kExitUnavailable);
  EXPECT_EQ(run({}).code, kExitUnavailable) << "not encrypted";
  EXPECT_THAT(run({"--tls-ca", ca.certificate(), "--tls-cert", cert}).err, HasSubstr("both or none"));
  EXPECT_THAT(run({"--tls-cert", cert, "--tls-key", key}).err, HasSubstr("CA"));
  EXPECT_THAT(run({"--tls-ca", WriteFile("noise", "x")}).err, HasSubstr("not a PEM file"));
  server->Shutdown();
}

}  // namespace
}  // namespace qamserve::qamctl
