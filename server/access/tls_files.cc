#include "server/access/tls_files.h"

#include <absl/time/clock.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <utility>
#include <vector>

#include "core/base/file.h"

namespace qamserve {
namespace {

// A chain of a dozen certificates has 30 KiB; a bundle of every public CA 250 KiB.
constexpr uint64_t kMaxPemBytes = uint64_t{4} << 20;

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Bio = std::unique_ptr<BIO, Free>;
using Certificate = std::unique_ptr<X509, Free>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Free>;

// A file as a message names it.
struct Source {
  std::string_view reason;
  std::string_view flag;
  const std::string& path;

  absl::Status Error(std::string_view what) const { return InvalidArgument(reason, "{} {}: {}", flag, path, what); }
};

absl::StatusOr<std::string> ReadPem(const Source& source) {
  absl::StatusOr<std::string> text = ReadFile(source.path, kMaxPemBytes);
  if (!text.ok()) return source.Error(MessageOf(text.status()));
  return text;
}

Bio BioOf(const std::string& text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }

absl::StatusOr<std::vector<Certificate>> ParseCertificates(const Source& source, const std::string& pem) {
  const Bio bio = BioOf(pem);
  std::vector<Certificate> certificates;
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(certificate);
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (!at_end) return source.Error("a certificate in it is broken");
  if (certificates.empty()) return source.Error("there is no certificate in it (\"-----BEGIN CERTIFICATE-----\")");
  return certificates;
}

absl::StatusOr<PrivateKey> ParseKey(const Source& source, const std::string& pem) {
  const Bio bio = BioOf(pem);
  const auto no_password = [](char*, int, int, void*) { return -1; };
  PrivateKey key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr));
  ERR_clear_error();
  if (key == nullptr) return source.Error("there is no private key in it that can be read without a password");
  return key;
}

}  // namespace

absl::StatusOr<TlsPem> ReadTlsFiles(const TlsPaths& paths, absl::Time now) {
  TlsPem pem;
  const Source certificate_source{"TLS_CERT", "--tls-cert", paths.certificate};
  ASSIGN_OR_RETURN(pem.certificate_pem, ReadPem(certificate_source));
  ASSIGN_OR_RETURN(const std::vector<Certificate> chain, ParseCertificates(certificate_source, pem.certificate_pem));
  time_t now_seconds = absl::ToTimeT(now);
  if (X509_cmp_time(X509_get0_notAfter(chain.front().get()), &now_seconds) <= 0) {
    return certificate_source.Error("the certificate has expired");
  }
  const Source key_source{"TLS_KEY", "--tls-key", paths.key};
  ASSIGN_OR_RETURN(pem.key_pem, ReadPem(key_source));
  ASSIGN_OR_RETURN(const PrivateKey key, ParseKey(key_source, pem.key_pem));
  const bool belongs = X509_check_private_key(chain.front().get(), key.get()) == 1;
  ERR_clear_error();
  if (!belongs) return key_source.Error(fmt::format("it is not the key of the certificate in {}", paths.certificate));
  if (paths.client_ca.empty()) return pem;
  const Source ca_source{"TLS_CLIENT_CA", "--tls-client-ca", paths.client_ca};
  ASSIGN_OR_RETURN(pem.client_ca_pem, ReadPem(ca_source));
  RETURN_IF_ERROR(ParseCertificates(ca_source, pem.client_ca_pem).status());
  return pem;
}

absl::StatusOr<std::unique_ptr<TlsFiles>> TlsFiles::Open(const TlsPaths& paths) {
  ASSIGN_OR_RETURN(TlsPem pem, ReadTlsFiles(paths, absl::Now()));
  return std::unique_ptr<TlsFiles>(new TlsFiles(paths, std::move(pem)));
}

std::shared_ptr<const TlsPem> TlsFiles::current() const {
  absl::MutexLock lock(&mutex_);
  return current_;
}

absl::StatusOr<bool> TlsFiles::Reload() {
  ASSIGN_OR_RETURN(TlsPem pem, ReadTlsFiles(paths_, absl::Now()));
  absl::MutexLock lock(&mutex_);
  if (pem == *current_) return false;
  current_ = std::make_shared<TlsPem>(std::move(pem));
  return true;
}

TlsWatcher::TlsWatcher(TlsFiles& files, absl::Duration interval, std::function<void(const TlsPem&)> on_change,
                       std::function<void(const absl::Status&)> on_error)
    : files_(files),
      interval_(interval),
      on_change_(std::move(on_change)),
      on_error_(std::move(on_error)),
      thread_([this] { Loop(); }) {}

TlsWatcher::~TlsWatcher() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void TlsWatcher::Loop() {
  absl::Status last;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval_)) return;
    }
    const absl::StatusOr<bool> changed = files_.Reload();
    if (changed.ok() && *changed) on_change_(*files_.current());
    if (!changed.ok() && changed.status() != last) on_error_(changed.status());
    last = changed.status();
  }
}

}  // namespace qamserve
