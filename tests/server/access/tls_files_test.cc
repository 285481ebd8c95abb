#include "server/access/tls_files.h"

#include <absl/synchronization/notification.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp_folder.h"
#include "tests/support/test_certificates.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class TlsFilesTest : public testing::Test {
 protected:
  TlsFilesTest() {
    ca_.Sign("one");
    ca_.Sign("two");
  }
  TlsPaths Paths(const std::string& certificate, const std::string& key, const std::string& ca = "") {
    return {dir_ / certificate, dir_ / key, ca.empty() ? "" : dir_ / ca};
  }
  void Expect(const TlsPaths& paths, const std::string& reason, const std::string& flag, const std::string& file) {
    const absl::Status status = TlsFiles::Open(paths).status();
    EXPECT_EQ(ReasonOf(status), reason) << status;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(MessageOf(status), HasSubstr(flag));
    EXPECT_THAT(MessageOf(status), HasSubstr(dir_ / file));
  }
  void Copy(const std::string& from, const std::string& to) {
    ASSERT_TRUE(WriteFileAtomically(dir_ / to, ReadText(dir_ / from)).ok());
  }

  TempFolder dir_;
  TestCa ca_{dir_.path(), "ca"};
};

TEST_F(TlsFilesTest, ReadsWhatBelongsTogether) {
  const auto files = TlsFiles::Open(Paths("one.crt", "one.key", "ca.crt"));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ((*files)->current()->certificate_pem, ReadText(dir_ / "one.crt"));
  EXPECT_EQ((*files)->current()->key_pem, ReadText(dir_ / "one.key"));
  EXPECT_EQ((*files)->current()->client_ca_pem, ReadText(dir_ / "ca.crt"));
}

TEST_F(TlsFilesTest, NamesFlagAndFileOfWhatIsWrong) {
  ASSERT_TRUE(WriteFileAtomically(dir_ / "noise", "no PEM\n").ok());
  const std::string certificate = ReadText(dir_ / "one.crt");
  ASSERT_TRUE(WriteFileAtomically(dir_ / "cut.crt", certificate.substr(0, certificate.size() / 2)).ok());
  ASSERT_TRUE(WriteFileAtomically(dir_ / "bad.crt", certificate + certificate.substr(0, certificate.size() / 2)).ok());
  TestCa::Run("ec -in " + dir_ / "one.key" + " -aes256 -passout pass:x -out " + dir_ / "locked.key");
  ca_.Sign("old", 0);
  Expect(Paths("absent", "one.key"), "TLS_CERT", "--tls-cert", "absent");
  Expect(Paths("noise", "one.key"), "TLS_CERT", "--tls-cert", "noise");
  Expect(Paths("cut.crt", "one.key"), "TLS_CERT", "--tls-cert", "cut.crt");
  Expect(Paths("bad.crt", "one.key"), "TLS_CERT", "--tls-cert", "bad.crt");
  Expect(Paths("old.crt", "old.key"), "TLS_CERT", "expired", "old.crt");
  Expect(Paths("one.crt", "absent"), "TLS_KEY", "--tls-key", "absent");
  Expect(Paths("one.crt", "noise"), "TLS_KEY", "--tls-key", "noise");
  Expect(Paths("one.crt", "locked.key"), "TLS_KEY", "password", "locked.key");
  Expect(Paths("one.crt", "two.key"), "TLS_KEY", "not the key", "two.key");
  Expect(Paths("one.crt", "one.key", "noise"), "TLS_CLIENT_CA", "--tls-client-ca", "noise");
}

TEST_F(TlsFilesTest, ReloadsOnlyWhatIsWhole) {
  Copy("one.crt", "live.crt");
  Copy("one.key", "live.key");
  const auto files = TlsFiles::Open(Paths("live.crt", "live.key"));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_FALSE(*(*files)->Reload()) << "nothing has changed";
  Copy("two.crt", "live.crt");  // between the two writes of whoever renews
  EXPECT_EQ(ReasonOf((*files)->Reload().status()), "TLS_KEY");
  EXPECT_EQ((*files)->current()->certificate_pem, ReadText(dir_ / "one.crt"));
  Copy("two.key", "live.key");
  const auto changed = (*files)->Reload();
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_TRUE(*changed);
  EXPECT_EQ((*files)->current()->certificate_pem, ReadText(dir_ / "two.crt"));
}

TEST_F(TlsFilesTest, TheWatcherTellsOfChangesAndOfEachErrorOnce) {
  Copy("one.crt", "live.crt");
  Copy("one.key", "live.key");
  const auto files = TlsFiles::Open(Paths("live.crt", "live.key"));
  ASSERT_TRUE(files.ok()) << files.status();
  absl::Notification failed;
  absl::Notification changed;
  int errors = 0;
  std::string in_use;
  {
    const TlsWatcher watcher(
        **files, absl::Milliseconds(2),
        [&](const TlsPem& pem) {
          in_use = pem.certificate_pem;
          changed.Notify();
        },
        [&](const absl::Status&) {
          if (++errors == 1) failed.Notify();
        });
    Copy("two.crt", "live.crt");
    failed.WaitForNotification();
    absl::SleepFor(absl::Milliseconds(20));  // some rounds more, all with the same error
    Copy("two.key", "live.key");
    changed.WaitForNotification();
  }
  EXPECT_EQ(errors, 1);
  EXPECT_EQ(in_use, ReadText(dir_ / "two.crt"));
}

}  // namespace
}  // namespace qamserve
