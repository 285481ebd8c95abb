// The certificate, the key and the client CA of the ports, from PEM files. They are checked before anything uses them:
// at the start, and again whenever they change, so that a file that was half written never replaces what works.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "core/base/status.h"

namespace qamserve {

struct TlsPaths {
  std::string certificate;  // chain, the server's own first; empty = no TLS
  std::string key;
  std::string client_ca;  // empty = clients are not asked for a certificate

  bool enabled() const { return !certificate.empty(); }
};

// The contents of the files.
struct TlsPem {
  std::string certificate_pem;
  std::string key_pem;
  std::string client_ca_pem;  // empty = clients are not asked for a certificate

  bool operator==(const TlsPem&) const = default;
};

// INVALID_ARGUMENT: TLS_CERT, TLS_KEY, TLS_CLIENT_CA, each with the flag and the file: it cannot be read, is not PEM,
// has expired, or the key is encrypted or not the certificate's.
absl::StatusOr<TlsPem> ReadTlsFiles(const TlsPaths& paths, absl::Time now);

// Thread-safe.
class TlsFiles {
 public:
  // The errors of ReadTlsFiles.
  static absl::StatusOr<std::unique_ptr<TlsFiles>> Open(const TlsPaths& paths);

  std::shared_ptr<const TlsPem> current() const;
  // Reads the files again. True if they have changed and are in use from now on; after an error `current` stays.
  absl::StatusOr<bool> Reload();

 private:
  TlsFiles(TlsPaths paths, TlsPem pem) : paths_(std::move(paths)), current_(std::make_shared<TlsPem>(std::move(pem))) {}

  const TlsPaths paths_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const TlsPem> current_ ABSL_GUARDED_BY(mutex_);
};

// Reloads now and then, on a thread of its own. Contents are compared, not times: they are small, and a folder of
// secrets that is replaced by a link has old times.
class TlsWatcher {
 public:
  // `files` must outlive the watcher. `on_change` gets what is in use from now on, `on_error` each error once as long
  // as it stays the same.
  TlsWatcher(TlsFiles& files, absl::Duration interval, std::function<void(const TlsPem&)> on_change,
             std::function<void(const absl::Status&)> on_error);
  ~TlsWatcher();

 private:
  void Loop();

  TlsFiles& files_;
  const absl::Duration interval_;
  const std::function<void(const TlsPem&)> on_change_;
  const std::function<void(const absl::Status&)> on_error_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace qamserve
