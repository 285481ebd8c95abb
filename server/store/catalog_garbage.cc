// Garbage collection: rows that are old, and blobs that no row refers to.
//
// Any process may collect. What makes rows refer to blobs and what deletes blobs exclude each other ("references"), so
// that none goes between the look at the rows and its deletion. Blobs younger than the grace are left alone: whoever
// commits one, also one that is there already, makes it young and has so much time to write the row.
//
// Jobs are not created meanwhile, so that a store which is away must not hold them up: a deletion is not tried a second
// time, the first one that fails ends the collection, and a slow store gives others their turn before the next batch,
// which looks at the rows anew.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <span>

#include "server/store/catalog.h"
#include "server/store/request_ids.h"

namespace qamserve {
namespace {

constexpr char kReferences[] = "references";
constexpr char kCollectedSetting[] = "garbage.collected_ms";
// Deleted at a time while nobody may refer to blobs: so many take a second or so where a deletion is a request.
constexpr size_t kBatch = 128;

}  // namespace

absl::Status Catalog::WithoutCollection(absl::FunctionRef<absl::Status()> body) {
  return store_.Exclusive(kReferences, body);
}

absl::Status Catalog::DeleteOldRows(int64_t now_ms) {
  return WithoutCollection([&]() -> absl::Status {
    RETURN_IF_ERROR(store_.DeleteUploadsBefore(now_ms - options_.upload_retention_ms));
    return store_.DeleteRequestsBefore(now_ms - kRequestRetentionMs);
  });
}

absl::StatusOr<GarbageResult> Catalog::CollectGarbage(const GarbageRequest& request) {
  const int64_t now_ms = options_.now_ms();
  const int64_t before_ms = now_ms - request.grace_ms.value_or(options_.garbage_grace_ms);
  if (!request.dry_run) {
    DropIdleWriters();
    RETURN_IF_ERROR(DeleteOldRows(now_ms));
  }
  // Blobs are listed first: one that comes in between is not looked at.
  ASSIGN_OR_RETURN(std::vector<BlobInfo> blobs, blobs_.List());
  ASSIGN_OR_RETURN(std::vector<BlobInfo> partials, blobs_.ListPartials());
  ASSIGN_OR_RETURN(const auto referenced, store_.ReferencedBlobs(now_ms - options_.retry_retention_ms));
  GarbageResult result;
  std::set<std::string> whole;
  for (const BlobInfo& blob : blobs) {
    whole.insert(blob.digest);
    ++result.blobs_seen;
    result.bytes_seen += blob.size;
  }
  const auto is_used = [&](const BlobInfo& info) {
    return info.modified_ms >= before_ms || referenced.contains(info.digest);
  };
  std::erase_if(blobs, is_used);
  // What is there as a whole needs no part of it: its writer ended before it could remove them.
  std::erase_if(partials, [&](const BlobInfo& partial) {
    return partial.modified_ms >= before_ms || (referenced.contains(partial.digest) && !whole.contains(partial.digest));
  });
  if (request.dry_run) {
    for (const BlobInfo& blob : blobs) {
      ++result.blobs;
      result.bytes += blob.size;
      if (result.digests.size() < kMaxNamedGarbage) result.digests.push_back(blob.digest);
    }
    for (const BlobInfo& partial : partials) {
      ++result.partials;
      result.partial_bytes += partial.size;
    }
    return result;
  }
  RETURN_IF_ERROR(DeleteBlobs(blobs, before_ms, result));
  RETURN_IF_ERROR(DeletePartials(partials, result));
  RETURN_IF_ERROR(blobs_.SweepLeftovers(now_ms - options_.upload_retention_ms));
  return result;
}

absl::Status Catalog::DeleteBlobs(const std::vector<BlobInfo>& garbage, int64_t before_ms, GarbageResult& result) {
  for (std::span<const BlobInfo> left = garbage; !left.empty();) {
    const absl::Status deleted = WithoutCollection([&] { return DeleteBatch(left, before_ms, result); });
    if (!deleted.ok()) {
      return Annotate(deleted, fmt::format("{} blobs were deleted; {} that nothing refers to are left for the next "
                                           "collection of garbage",
                                           result.blobs, left.size()));
    }
  }
  return absl::OkStatus();
}

absl::Status Catalog::DeleteBatch(std::span<const BlobInfo>& left, int64_t before_ms, GarbageResult& result) {
  // Looked at again: some may have been referred to since the list was made.
  ASSIGN_OR_RETURN(const auto referenced, store_.ReferencedBlobs(options_.now_ms() - options_.retry_retention_ms));
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(options_.collection_turn_ms);
  for (size_t looked = 0; looked < kBatch && !left.empty(); ++looked) {
    if (looked > 0 && std::chrono::steady_clock::now() >= end) break;
    const BlobInfo& blob = left.front();
    bool deleted = false;
    if (!referenced.contains(blob.digest)) {
      ASSIGN_OR_RETURN(deleted, blobs_.DeleteIfOlder(blob.digest, before_ms));
    }
    left = left.subspan(1);
    if (!deleted) continue;
    ++result.blobs;
    result.bytes += blob.size;
    if (result.digests.size() < kMaxNamedGarbage) result.digests.push_back(blob.digest);
  }
  return absl::OkStatus();
}

absl::Status Catalog::DeletePartials(const std::vector<BlobInfo>& garbage, GarbageResult& result) {
  for (const BlobInfo& partial : garbage) {
    DropWriter(partial.digest);
    const absl::Status status = blobs_.DeletePartial(partial.digest);
    if (absl::IsAborted(status)) continue;  // somebody has begun to write it again
    RETURN_IF_ERROR(status);
    ++result.partials;
    result.partial_bytes += partial.size;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<GarbageResult>> Catalog::CollectGarbageIfDue(int64_t interval_ms) {
  bool due = false;
  RETURN_IF_ERROR(WithoutCollection([&]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto settings, store_.ListSettings());
    const int64_t now_ms = options_.now_ms();
    int64_t last_ms = 0;
    const auto known = settings.find(kCollectedSetting);
    if (known != settings.end()) {
      std::from_chars(known->second.data(), known->second.data() + known->second.size(), last_ms);
    }
    due = now_ms - last_ms >= interval_ms;
    return due ? store_.PutSetting(kCollectedSetting, fmt::to_string(now_ms)) : absl::OkStatus();
  }));
  if (!due) return std::nullopt;
  ASSIGN_OR_RETURN(GarbageResult result, CollectGarbage());
  return std::optional<GarbageResult>(std::move(result));
}

absl::Status Catalog::AfterDeletion() {
  return options_.collect_on_delete ? CollectGarbage().status() : absl::OkStatus();
}

}  // namespace qamserve
