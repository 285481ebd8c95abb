#include "core/base/digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <vector>

#include "core/base/file.h"

namespace qamserve {

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) { EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr); }
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
Sha256::~Sha256() = default;

void Sha256::Update(std::span<const std::byte> bytes) { EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()); }

std::string Sha256::Finish() {
  unsigned char digest[32];
  EVP_DigestFinal_ex(context_->evp, digest, nullptr);
  std::string hex;
  for (unsigned char byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

std::string Sha256Hex(std::string_view text) {
  Sha256 digest;
  digest.Update(text);
  return digest.Finish();
}

absl::StatusOr<std::string> Sha256OfFile(const std::string& path) {
  ASSIGN_OR_RETURN(File file, File::OpenForRead(path));
  Sha256 digest;
  std::vector<std::byte> buffer(1 << 20);
  for (uint64_t offset = 0; offset < file.size();) {
    auto part = std::span(buffer).first(std::min<uint64_t>(buffer.size(), file.size() - offset));
    RETURN_IF_ERROR(file.ReadAt(offset, part));
    digest.Update(part);
    offset += part.size();
  }
  return digest.Finish();
}

bool IsSha256(std::string_view text) {
  return text.size() == 64 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace qamserve
