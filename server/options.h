// What the server can be told, from flags, the environment and a file, in that order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

// Read from the environment only, where neither a list of processes nor a file shows them.
struct ImportSecrets {
  std::string hub_token;         // HF_TOKEN
  std::string s3_access_key;     // AWS_ACCESS_KEY_ID
  std::string s3_secret_key;     // AWS_SECRET_ACCESS_KEY
  std::string s3_session_token;  // AWS_SESSION_TOKEN
};

struct ServerOptions {
  std::string data_dir = "qamserve-data";
  std::string listen = "127.0.0.1:50051";          // gRPC; port 0 = any free one
  std::string http_listen = "127.0.0.1:8080";      // HTTP; "off" = none
  std::string metrics_listen = "127.0.0.1:9090";   // HTTP for machines that watch the server; "off" = none
  bool insecure_allow_remote = false;
  std::string tls_cert;                            // PEM files of the ports that clients call; empty = no TLS
  std::string tls_key;
  std::string tls_client_ca;                       // empty = clients need no certificate
  std::string admin_key_file;                      // empty = none
  std::string admin_key;                           // itself, from QAMSERVE_ADMIN_KEY; no flag, which others could see
  std::vector<std::string> roles = {"api", "worker", "inference"};
  // Stores that several processes share: both or none. Without, both are in data_dir and of this process alone.
  std::string metadata_store;                      // postgresql://...
  std::string blob_store;                          // s3://BUCKET[/PREFIX]
  int64_t blob_cache_mib = 0;                      // of data_dir, for copies of blobs; 0 = what the disk has
  bool no_migrate = false;                         // refuse an older schema instead of bringing it up to date
  std::string advertise;                           // HOST:PORT of `listen` for other processes; empty: made of `listen`
  std::string fleet_ca;                            // PEM file; empty = the system's CAs
  std::vector<std::string> pools;                  // of a worker; empty: made of quantize_device
  int worker_nice = 10;                            // of a worker's threads
  std::string import_root;                         // empty = no imports
  std::string import_mode = "copy";                // copy, reference
  std::string hub_endpoint = "https://huggingface.co";  // of hf:// imports; "off" = none
  std::string hub_token_file;                      // empty = HF_TOKEN of the environment, if there is one
  std::string s3_endpoint;                         // of s3:// imports and blob_store. Keys: AWS_* of the environment
  std::string s3_region = "us-east-1";
  ImportSecrets import_secrets;
  int threads = 0;                                 // 0 = all cores
  std::string device = "cpu";                      // of served models: cpu, cuda:0, ...
  std::string quantize_device = "cpu";             // of a worker's tasks, likewise
  std::string kernels;                             // instruction set; empty = the fastest that this machine has
  int64_t memory_limit_mib = 0;                    // of served models; 0 = three quarters of the machine's
  int64_t kv_mib = 2048;                           // of one served model, all sequences together
  int32_t max_running = 16;                        // sequences in a batch
  int32_t max_waiting = 256;                       // requests that wait for the batch
  std::string kv_type = "f32";                     // f32, int8
  bool no_prefix_cache = false;
  int32_t draft_tokens = 0;                        // guesses checked in a step of a request; 0 = none
  int64_t disk_reserve_mib = 64;                   // left free on the disk of data_dir
  int32_t upload_retention_hours = 168;
  int32_t garbage_grace_seconds = 3600;            // age at which blobs that nothing refers to are garbage
  int32_t lease_seconds = 30;
  double drain_seconds = 30;
  std::string log_level = "info";
  std::string otlp_endpoint;                       // of traces; empty = none are made
  double trace_ratio = 1;                          // of traces that begin here, what part is kept

  bool HasRole(std::string_view role) const;
  // Whether this process is one of several.
  bool InFleet() const { return !metadata_store.empty(); }
  // `pools`, or those that follow from quantize_device.
  std::vector<std::string> WorkerPools() const;
  // Whether other machines can reach the ports that clients call, and nobody has said that this is fine.
  bool ReachesOut() const;
};

// INVALID_ARGUMENT (OPTION) names the flag and its limits.
absl::Status ValidateOptions(const ServerOptions& options);
// The same of those that say where the metadata store is, for what needs nothing else (store_commands.h).
absl::Status ValidateMetadataOptions(const ServerOptions& options);

struct ParsedOptions {
  ServerOptions options;
  // Set if the program must end at once: after --help, --version or an error.
  std::optional<int> exit_code;
  std::string output;  // for stdout if exit_code is 0, else for stderr
};
// `environment` looks a variable up (getenv in main); each flag --some-name has QAMSERVE_SOME_NAME.
using Environment = const char* (*)(const char*);
ParsedOptions ParseOptions(int argc, const char* const* argv, Environment environment,
                           absl::Status (*validate)(const ServerOptions&) = ValidateOptions);

// HOST:PORT taken apart; "[::1]:1" has the host "::1". INVALID_ARGUMENT (LISTEN_ADDRESS).
struct ListenAddress {
  std::string host;
  int port = 0;
};
absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view flag, const std::string& text);
bool IsLoopback(const std::string& host);

// HOST:PORT under which others reach a process that listens on `port`: `advertise`, or `listen` with the machine's name
// in place of an address that means all. INVALID_ARGUMENT (LISTEN_ADDRESS).
absl::StatusOr<std::string> AdvertisedAddress(const ServerOptions& options, int port);
// The machine's name; "localhost" if it has none.
std::string HostName();

// Memory that this process may use: that of the machine, or the least that one of its control groups allows. `groups`:
// where the kernel shows control groups, of version 1 or 2; `mine`: where it tells which ones the process is in.
int64_t MachineMemoryBytes(const std::string& groups = "/sys/fs/cgroup", const std::string& mine = "/proc/self/cgroup");

}  // namespace qamserve
