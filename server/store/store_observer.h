// What the stores tell of their own work, for metrics: the SQL databases of transactions, the S3 store and the blob
// cache of requests and of the cache. No dependency on server/telemetry, which implements it. Calls come from any
// thread and return at once; they must not call the store. The class itself ignores everything, so that an options
// struct has `std::shared_ptr<StoreObserver> observer = std::make_shared<StoreObserver>();` and nobody asks for null.
#pragma once

#include <absl/status/status.h>

#include <cstdint>

namespace qamserve {

class StoreObserver {
 public:
  // One SqlDatabase::Transact, Read or Exclusive, told when it has ended however it ended.
  struct Transaction {
    enum class Kind { kRead, kWrite, kExclusive };
    Kind kind = Kind::kRead;
    double seconds = 0;  // pauses and repeats included
    // Times that the body ran again after a conflict or a lost connection; 0 = once was enough.
    int32_t retries = 0;
    // Of an Exclusive: how taking, keeping and giving back the lock ended. The body may refuse what somebody asked for;
    // what it asks of the store is told by itself.
    absl::StatusCode code = absl::StatusCode::kOk;
  };
  // One request to the object store by an operation of its API, told after its last attempt.
  struct BlobRequest {
    enum class Operation {
      kGet,
      kHead,
      kPut,
      kDelete,
      kList,
      kCopy,
      kCreateMultipart,
      kUploadPart,
      kCompleteMultipart,
      kAbortMultipart,
      kListParts,
      kListMultipart,
    };
    Operation operation = Operation::kGet;
    double seconds = 0;       // pauses and repeats included
    int32_t retries = 0;      // attempts after the first one
    uint64_t bytes_sent = 0;  // of bodies, of all attempts
    uint64_t bytes_received = 0;
    absl::StatusCode code = absl::StatusCode::kOk;  // of the last attempt
  };

  StoreObserver() = default;
  StoreObserver(const StoreObserver&) = delete;
  StoreObserver& operator=(const StoreObserver&) = delete;
  virtual ~StoreObserver() = default;

  virtual void OnTransaction(const Transaction& /*transaction*/) {}
  // The connection over which changes by other processes are heard of was lost and is there again. Connections for
  // transactions are told as retries of those.
  virtual void OnReconnect() {}

  virtual void OnBlobRequest(const BlobRequest& /*request*/) {}
  // A blob was asked of the node's cache; `hit`: it was there, whole.
  virtual void OnCacheLookup(bool /*hit*/) {}
  // A blob was thrown out of the cache to make room.
  virtual void OnCacheEviction(uint64_t /*bytes*/) {}
  // Bytes of blobs in the cache, after each change and once when it opens; 0 = no limit.
  virtual void OnCacheSize(uint64_t /*bytes*/, uint64_t /*limit_bytes*/) {}
  // Bytes that do not have the digest that they are named by, in the object store or in the cache.
  virtual void OnCorruptBlob() {}
  // A row names a blob that the store does not have.
  virtual void OnMissingBlob() {}
};

}  // namespace qamserve
