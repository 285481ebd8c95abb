// Where the server keeps what it has: in its own folder, or in stores that it shares with other processes.
#include "server/import_sources.h"
#include "server/server.h"
#include "server/store/postgres_metadata_store.h"
#include "server/store/s3_blob_store.h"
#include "server/store/sqlite_metadata_store.h"

namespace qamserve {
namespace {

constexpr int64_t kMib = int64_t{1} << 20;
// The name under which MetadataStore::Exclusive keeps an old blob's collection and its renewal apart.
constexpr char kBlobLock[] = "blobs";
// What is committed again is renewed if it is older than this part of the grace; the rest is for its row to come.
constexpr int64_t kRenewalsPerGrace = 6;

uint64_t BytesOf(int64_t mib) { return static_cast<uint64_t>(mib * kMib); }

}  // namespace

absl::Status Server::OpenMetadataStore(const ServerParts& parts) {
  if (parts.store != nullptr) {
    store_ = parts.store;
    in_fleet_ = true;
    return absl::OkStatus();
  }
  in_fleet_ = options_.InFleet();
  if (in_fleet_) {
    PostgresOptions postgres;
    postgres.observer = store_metrics_;
    postgres.on_warning = [log = log_](const std::string& warning) {
      log->Warning("metadata_store", {{"message", warning}});
    };
    if (options_.no_migrate) postgres.schema = SchemaPolicy::kRefuse;
    ASSIGN_OR_RETURN(store_, OpenPostgresMetadataStore(options_.metadata_store, postgres));
    return absl::OkStatus();
  }
  SqliteOptions sqlite;
  sqlite.observer = store_metrics_;
  if (options_.no_migrate) sqlite.schema = SchemaPolicy::kRefuse;
  ASSIGN_OR_RETURN(store_, OpenSqliteMetadataStore(data_dir_.database(), sqlite));
  return absl::OkStatus();
}

absl::Status Server::OpenBlobStore(const ServerParts& parts) {
  if (parts.blobs != nullptr) {
    blobs_ = parts.blobs;
    return absl::OkStatus();
  }
  if (!options_.blob_store.empty()) {
    S3BlobStoreOptions s3;
    s3.uri = options_.blob_store;
    ASSIGN_OR_RETURN(const RemoteOptions remote, RemoteOptionsOf(options_));
    s3.client.endpoint = remote.s3_endpoint;
    s3.client.key = remote.s3_key;
    s3.client.now_ms = [store = store_.get()] { return store->NowMs(); };
    s3.client.observer = store_metrics_;
    s3.cache.folder = data_dir_.cache();
    s3.cache.max_bytes = BytesOf(options_.blob_cache_mib);
    s3.cache.reserve_bytes = BytesOf(options_.disk_reserve_mib);
    s3.cache.observer = store_metrics_;
    s3.objects.renew_after_ms = int64_t{options_.garbage_grace_seconds} * 1000 / kRenewalsPerGrace;
    s3.exclusive = [store = store_.get()](absl::FunctionRef<absl::Status()> body) {
      return store->Exclusive(kBlobLock, body);
    };
    ASSIGN_OR_RETURN(blobs_, S3BlobStore::Open(std::move(s3)));
    return absl::OkStatus();
  }
  DirectoryBlobStoreOptions directory;
  directory.root = data_dir_.blobs();
  directory.reserve_bytes = BytesOf(options_.disk_reserve_mib);
  ASSIGN_OR_RETURN(blobs_, DirectoryBlobStore::Open(directory));
  return absl::OkStatus();
}

absl::Status Server::OpenStores(const ServerParts& parts) {
  RETURN_IF_ERROR(OpenMetadataStore(parts));
  RETURN_IF_ERROR(OpenBlobStore(parts));
  CatalogOptions catalog_options;
  catalog_options.import_root = options_.import_root;
  ASSIGN_OR_RETURN(catalog_options.remote, RemoteOptionsOf(options_));
  catalog_options.import_spool = data_dir_.imports();
  catalog_options.import_mode = options_.import_mode == "reference" ? ImportMode::kReference : ImportMode::kCopy;
  catalog_options.upload_retention_ms = int64_t{options_.upload_retention_hours} * 3600 * 1000;
  catalog_options.garbage_grace_ms = int64_t{options_.garbage_grace_seconds} * 1000;
  catalog_options.now_ms = [store = store_.get()] { return store->NowMs(); };
  catalog_options.collect_on_delete = options_.blob_store.empty();
  catalog_options.observer = store_metrics_;
  if (parts.inspect) catalog_options.inspect = parts.inspect;
  catalog_ = std::make_unique<Catalog>(catalog_options, *store_, *blobs_);
  return absl::OkStatus();
}

}  // namespace qamserve
