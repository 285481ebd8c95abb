#include "server/access/key_secret.h"

#include <gtest/gtest.h>

#include <set>

#include "core/base/digest.h"

namespace qamserve {
namespace {

TEST(KeySecretTest, SecretsHave43DigitsOfBase62AndDiffer) {
  std::set<std::string> secrets;
  std::set<char> digits;
  for (int i = 0; i < 500; ++i) {
    const std::string secret = NewSecret();
    EXPECT_EQ(secret.size(), 4 + kSecretDigits);
    EXPECT_TRUE(secret.starts_with("qsk-"));
    digits.insert(secret.begin() + 4, secret.end());
    secrets.insert(secret);
  }
  EXPECT_EQ(secrets.size(), 500u);
  EXPECT_EQ(digits.size(), 62u) << "every digit occurs";
}

TEST(KeySecretTest, DigestIsSha256) {
  EXPECT_EQ(DigestOfSecret("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(KeySecretTest, FindsTheSecretBehindBearer) {
  EXPECT_EQ(SecretInAuthorization("Bearer qsk-x"), "qsk-x");
  EXPECT_EQ(SecretInAuthorization("BEARER  qsk-x "), "qsk-x");
  for (const char* bad : {"", "Bearer", "Bearer ", "Basic qsk-x", "qsk-x", "Bearerqsk-x"}) {
    EXPECT_FALSE(SecretInAuthorization(bad).has_value()) << bad;
  }
}

TEST(KeySecretTest, GivenSecretsMustBeLongAndPlain) {
  EXPECT_TRUE(CheckGivenSecret("f", std::string(32, 'x')).ok());
  for (const std::string& bad : {std::string(31, 'x'), std::string(257, 'x'), std::string(32, ' '),
                                 std::string(31, 'x') + "\n", std::string(31, 'x') + "\xC3"}) {
    const absl::Status status = CheckGivenSecret("the file f", bad);
    EXPECT_EQ(ReasonOf(status), "ADMIN_KEY");
    EXPECT_NE(MessageOf(status).find("the file f"), std::string::npos);
    EXPECT_EQ(MessageOf(status).find(bad), std::string::npos) << "a secret does not stand in a message";
  }
}

}  // namespace
}  // namespace qamserve
