#include "server/telemetry/store_metrics.h"

#include <string>

namespace qamserve {
namespace {

std::string_view KindLabel(StoreObserver::Transaction::Kind kind) {
  using Kind = StoreObserver::Transaction::Kind;
  switch (kind) {
    case Kind::kRead:
      return "read";
    case Kind::kWrite:
      return "write";
    case Kind::kExclusive:
      return "exclusive";
  }
  return "";
}

std::string_view OperationLabel(StoreObserver::BlobRequest::Operation operation) {
  using Operation = StoreObserver::BlobRequest::Operation;
  switch (operation) {
    case Operation::kGet:
      return "get";
    case Operation::kHead:
      return "head";
    case Operation::kPut:
      return "put";
    case Operation::kDelete:
      return "delete";
    case Operation::kList:
      return "list";
    case Operation::kCopy:
      return "copy";
    case Operation::kCreateMultipart:
      return "create_multipart";
    case Operation::kUploadPart:
      return "upload_part";
    case Operation::kCompleteMultipart:
      return "complete_multipart";
    case Operation::kAbortMultipart:
      return "abort_multipart";
    case Operation::kListParts:
      return "list_parts";
    case Operation::kListMultipart:
      return "list_multipart";
  }
  return "";
}

}  // namespace

void StoreMetrics::OnTransaction(const Transaction& transaction) {
  const std::string_view kind = KindLabel(transaction.kind);
  metrics_.Add(Metric::kStoreTransactionsTotal, {kind, absl::StatusCodeToString(transaction.code)});
  metrics_.Observe(Metric::kStoreTransactionSeconds, {kind}, transaction.seconds);
  metrics_.Add(Metric::kStoreRetriesTotal, {kind}, transaction.retries);
}

void StoreMetrics::OnReconnect() { metrics_.Add(Metric::kStoreReconnectsTotal); }

void StoreMetrics::OnBlobRequest(const BlobRequest& request) {
  const std::string_view operation = OperationLabel(request.operation);
  metrics_.Add(Metric::kBlobRequestsTotal, {operation, absl::StatusCodeToString(request.code)});
  metrics_.Observe(Metric::kBlobRequestSeconds, {operation}, request.seconds);
  metrics_.Add(Metric::kBlobRequestRetriesTotal, {operation}, request.retries);
  metrics_.Add(Metric::kBlobBytesTotal, {"sent"}, static_cast<double>(request.bytes_sent));
  metrics_.Add(Metric::kBlobBytesTotal, {"received"}, static_cast<double>(request.bytes_received));
}

void StoreMetrics::OnCacheLookup(bool hit) { metrics_.Add(Metric::kBlobCacheLookupsTotal, {hit ? "hit" : "miss"}); }

void StoreMetrics::OnCacheEviction(uint64_t bytes) {
  metrics_.Add(Metric::kBlobCacheEvictionsTotal);
  metrics_.Add(Metric::kBlobCacheEvictedBytesTotal, {}, static_cast<double>(bytes));
}

void StoreMetrics::OnCacheSize(uint64_t bytes, uint64_t limit_bytes) {
  cache_bytes_ = bytes;
  cache_limit_bytes_ = limit_bytes;
  has_cache_ = true;
}

void StoreMetrics::OnCorruptBlob() { metrics_.Add(Metric::kCorruptBlobsTotal); }

void StoreMetrics::OnMissingBlob() { metrics_.Add(Metric::kMissingBlobsTotal); }

void StoreMetrics::WriteGauges(Metrics::GaugeWriter& writer) const {
  if (!has_cache_) return;
  writer.Set(Metric::kBlobCacheBytes, {}, static_cast<double>(cache_bytes_));
  writer.Set(Metric::kBlobCacheLimitBytes, {}, static_cast<double>(cache_limit_bytes_));
}

}  // namespace qamserve
