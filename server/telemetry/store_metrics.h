// Counts what the stores tell of themselves (server/store/store_observer.h). Thread-safe.
#pragma once

#include <atomic>

#include "server/store/store_observer.h"
#include "server/telemetry/metrics.h"

namespace qamserve {

class StoreMetrics final : public StoreObserver {
 public:
  // `metrics` must outlive it.
  explicit StoreMetrics(Metrics& metrics) : metrics_(metrics) {}

  void OnTransaction(const Transaction& transaction) override;
  void OnReconnect() override;
  void OnBlobRequest(const BlobRequest& request) override;
  void OnCacheLookup(bool hit) override;
  void OnCacheEviction(uint64_t bytes) override;
  void OnCacheSize(uint64_t bytes, uint64_t limit_bytes) override;
  void OnCorruptBlob() override;
  void OnMissingBlob() override;

  // For Metrics::AddGaugeSource. Says nothing until there is a cache.
  void WriteGauges(Metrics::GaugeWriter& writer) const;

 private:
  Metrics& metrics_;
  std::atomic<bool> has_cache_{false};
  std::atomic<uint64_t> cache_bytes_{0};
  std::atomic<uint64_t> cache_limit_bytes_{0};
};

}  // namespace qamserve
