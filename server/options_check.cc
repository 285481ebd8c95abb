// What the options may be, and what follows from them.
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_split.h>
#include <arpa/inet.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/kernels/kernels.h"
#include "core/model/cuda/open.h"
#include "server/options.h"
#include "server/store/postgres_metadata_store.h"
#include "server/store/s3_blob_store.h"
#include "server/telemetry/log.h"
#include "server/telemetry/otlp_exporter.h"

namespace qamserve {
namespace {

constexpr const char* kRoles[] = {"api", "worker", "inference"};

// Files, below the folder of control groups, with the limits of those that `mine` names and of all above them, which
// hold as well. A container sees its own group as the topmost one, whatever its name is outside.
std::vector<std::string> MemoryLimitFiles(const std::string& mine) {
  std::vector<std::string> files = {"/memory.max", "/memory/memory.limit_in_bytes"};
  std::ifstream lines(mine);
  // "0::/a/b" of version 2, "4:cpu,memory:/a/b" of version 1.
  for (std::string line; std::getline(lines, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || !absl::StartsWith(parts[2], "/") || absl::StrContains(parts[2], "/..")) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    const bool is_v1 = std::find(controllers.begin(), controllers.end(), "memory") != controllers.end();
    if (!is_v1 && !parts[1].empty()) continue;
    for (std::string group = parts[2]; group.size() > 1; group.resize(group.rfind('/'))) {
      files.push_back(is_v1 ? "/memory" + group + "/memory.limit_in_bytes" : group + "/memory.max");
    }
  }
  return files;
}

absl::Status CheckDevice(std::string_view flag, const std::string& name) {
  const absl::StatusOr<int> device = ParseDevice(name);
  if (device.ok()) return absl::OkStatus();
  return InvalidArgument("OPTION", "{}: {}", flag, MessageOf(device.status()));
}

absl::Status CheckRange(std::string_view flag, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("OPTION", "{} must be {} to {}; got {}", flag, low, high, value);
}

absl::Status CheckAddress(std::string_view flag, const std::string& text, bool allow_remote) {
  ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(flag, text));
  if (allow_remote || IsLoopback(address.host)) return absl::OkStatus();
  return InvalidArgument("REMOTE_ADDRESS",
                         "{} {} can be reached from other machines, and nothing here asks who calls. Use 127.0.0.1, or "
                         "give --insecure-allow-remote if the network is trusted",
                         flag, text);
}

// A port that clients call: with TLS, Server asks further who may come in (keys or certificates).
absl::Status CheckClientAddress(std::string_view flag, const std::string& text, const ServerOptions& options) {
  ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(flag, text));
  if (options.insecure_allow_remote || !options.tls_cert.empty() || IsLoopback(address.host)) return absl::OkStatus();
  return InvalidArgument(
      "REMOTE_ADDRESS",
      "{} {} can be reached from other machines, and nothing is encrypted: API keys, models and "
      "prompts could be read on the way. Use 127.0.0.1; or give --tls-cert and --tls-key; or, if the "
      "network is trusted, --insecure-allow-remote",
      flag, text);
}

absl::Status CheckTls(const ServerOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return InvalidArgument("OPTION", "--tls-cert and --tls-key belong together: give both or none");
  }
  if (options.tls_cert.empty() && !options.tls_client_ca.empty()) {
    return InvalidArgument("OPTION", "--tls-client-ca needs --tls-cert and --tls-key");
  }
  if (options.tls_cert.empty() && !options.fleet_ca.empty()) {
    return InvalidArgument("OPTION", "--fleet-ca needs --tls-cert and --tls-key");
  }
  if (options.admin_key_file.empty() || options.admin_key.empty()) return absl::OkStatus();
  return InvalidArgument("OPTION", "--admin-key-file and QAMSERVE_ADMIN_KEY both give an admin key; give one");
}

absl::Status CheckUrl(std::string_view flag, const std::string& url) {
  const bool known = url.starts_with("https://") || url.starts_with("http://");
  if (known && url.back() != '/' && url.find_first_of(" ?#") == std::string::npos) return absl::OkStatus();
  return InvalidArgument("OPTION", "{} must be http:// or https:// with a host, without '/' at its end; got \"{}\"",
                         flag, url);
}

absl::Status CheckRoles(const ServerOptions& options) {
  if (options.roles.empty()) return InvalidArgument("OPTION", "--roles must name at least one role");
  for (const std::string& role : options.roles) {
    if (std::find(std::begin(kRoles), std::end(kRoles), role) == std::end(kRoles)) {
      return InvalidArgument("OPTION", "--roles: \"{}\" is none of api, worker, inference", role);
    }
  }
  return absl::OkStatus();
}

bool IsPool(const std::string& name) {
  return !name.empty() && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

absl::Status CheckPools(const ServerOptions& options) {
  for (const std::string& pool : options.pools) {
    if (!IsPool(pool)) return InvalidArgument("OPTION", "--pools: \"{}\" is not 1 to 63 of a-z, 0-9 and '-'", pool);
  }
  return absl::OkStatus();
}

absl::Status CheckStores(const ServerOptions& options) {
  if (options.metadata_store.empty() != options.blob_store.empty()) {
    return InvalidArgument("OPTION",
                           "--metadata-store and --blob-store belong together: processes that share one share the "
                           "other; give both or none");
  }
  if (!options.InFleet()) return absl::OkStatus();
  const absl::Status location = ParseS3Location(options.blob_store).status();
  if (!location.ok()) return InvalidArgument("OPTION", "--blob-store: {}", MessageOf(location));
  if (options.s3_endpoint.empty()) return InvalidArgument("OPTION", "--blob-store needs --s3-endpoint");
  if (options.import_mode == "reference") {
    return InvalidArgument("OPTION",
                           "--import-mode reference leaves files on this machine, where the other processes "
                           "of --metadata-store do not find them; use copy");
  }
  return absl::OkStatus();
}

bool IsAnyAddress(const std::string& host) { return host == "0.0.0.0" || host == "::" || host == "*"; }

absl::Status CheckAdvertise(const ServerOptions& options) {
  if (options.advertise.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress("--advertise", options.advertise));
  if (!IsAnyAddress(address.host)) return absl::OkStatus();
  return InvalidArgument("LISTEN_ADDRESS", "--advertise must name an address that others can reach; got \"{}\"",
                         options.advertise);
}

}  // namespace

bool ServerOptions::HasRole(std::string_view role) const {
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

std::vector<std::string> ServerOptions::WorkerPools() const {
  if (!pools.empty()) return pools;
  const absl::StatusOr<int> device = ParseDevice(quantize_device);
  if (device.ok() && *device >= 0) return {"cpu", "cuda"};
  return {"cpu"};
}

bool ServerOptions::ReachesOut() const {
  if (insecure_allow_remote) return false;
  const auto reaches_out = [](const std::string& listen_address) {
    const absl::StatusOr<ListenAddress> address = ParseListenAddress("", listen_address);
    return address.ok() && !IsLoopback(address->host);
  };
  return reaches_out(listen) || (http_listen != "off" && reaches_out(http_listen));
}

absl::Status ValidateMetadataOptions(const ServerOptions& o) {
  if (o.data_dir.empty()) return InvalidArgument("OPTION", "--data-dir must not be empty");
  // The URI may hold a password: it is not told.
  if (!o.InFleet() || IsPostgresUri(o.metadata_store)) return absl::OkStatus();
  return InvalidArgument("OPTION", "--metadata-store must begin with postgresql://");
}

absl::Status ValidateOptions(const ServerOptions& o) {
  RETURN_IF_ERROR(ValidateMetadataOptions(o));
  RETURN_IF_ERROR(CheckRoles(o));
  RETURN_IF_ERROR(CheckTls(o));
  RETURN_IF_ERROR(CheckClientAddress("--listen", o.listen, o));
  if (o.http_listen != "off") RETURN_IF_ERROR(CheckClientAddress("--http-listen", o.http_listen, o));
  if (o.metrics_listen != "off") {
    RETURN_IF_ERROR(CheckAddress("--metrics-listen", o.metrics_listen, o.insecure_allow_remote));
  }
  if (o.import_mode != "copy" && o.import_mode != "reference") {
    return InvalidArgument("OPTION", "--import-mode must be copy or reference; got \"{}\"", o.import_mode);
  }
  RETURN_IF_ERROR(CheckStores(o));
  RETURN_IF_ERROR(CheckAdvertise(o));
  RETURN_IF_ERROR(CheckPools(o));
  if (o.hub_endpoint != "off") RETURN_IF_ERROR(CheckUrl("--hub-endpoint", o.hub_endpoint));
  if (!o.s3_endpoint.empty()) RETURN_IF_ERROR(CheckUrl("--s3-endpoint", o.s3_endpoint));
  RETURN_IF_ERROR(CheckRange("--threads", o.threads, 0, 1024));
  RETURN_IF_ERROR(CheckDevice("--device", o.device));
  RETURN_IF_ERROR(CheckDevice("--quantize-device", o.quantize_device));
  if (!o.kernels.empty() && KernelsByName(o.kernels) == nullptr) {
    return InvalidArgument("OPTION", "--kernels is \"{}\"; this machine runs {}", o.kernels, KernelNames());
  }
  constexpr double kMaxMib = int64_t{1} << 30;  // a pebibyte
  RETURN_IF_ERROR(CheckRange("--memory-limit-mib", static_cast<double>(o.memory_limit_mib), 0, kMaxMib));
  RETURN_IF_ERROR(CheckRange("--blob-cache-mib", static_cast<double>(o.blob_cache_mib), 0, kMaxMib));
  RETURN_IF_ERROR(CheckRange("--worker-nice", o.worker_nice, 0, 19));
  RETURN_IF_ERROR(CheckRange("--kv-mib", static_cast<double>(o.kv_mib), 1, kMaxMib));
  RETURN_IF_ERROR(CheckRange("--max-running", o.max_running, 1, 1024));
  RETURN_IF_ERROR(CheckRange("--max-waiting", o.max_waiting, 1, 1'000'000));
  if (o.kv_type != "f32" && o.kv_type != "int8") {
    return InvalidArgument("OPTION", "--kv-type must be f32 or int8; got \"{}\"", o.kv_type);
  }
  RETURN_IF_ERROR(CheckRange("--draft-tokens", o.draft_tokens, 0, 64));
  RETURN_IF_ERROR(CheckRange("--disk-reserve-mib", static_cast<double>(o.disk_reserve_mib), 0, kMaxMib));
  RETURN_IF_ERROR(CheckRange("--upload-retention-hours", o.upload_retention_hours, 1, 24 * 366));
  RETURN_IF_ERROR(CheckRange("--garbage-grace-seconds", o.garbage_grace_seconds, 1, 30 * 24 * 3600));
  RETURN_IF_ERROR(CheckRange("--lease-seconds", o.lease_seconds, 1, 3600));
  RETURN_IF_ERROR(CheckRange("--drain-seconds", o.drain_seconds, 0, 3600));
  if (!o.otlp_endpoint.empty()) {
    const absl::Status checked = CheckOtlpEndpoint(o.otlp_endpoint);
    if (!checked.ok()) return InvalidArgument("OPTION", "--otlp-endpoint: {}", MessageOf(checked));
  }
  RETURN_IF_ERROR(CheckRange("--trace-ratio", o.trace_ratio, 0, 1));
  return Log::Create(o.log_level).status();
}

absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view flag, const std::string& text) {
  ListenAddress address;
  const size_t colon = text.rfind(':');
  const bool ok =
      colon != std::string::npos && colon > 0 &&
      absl::SimpleAtoi(absl::string_view(text.data() + colon + 1, text.size() - colon - 1), &address.port) &&
      address.port >= 0 && address.port <= 65535;
  if (ok) address.host = text.substr(0, colon);
  if (address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    address.host.clear();
  }
  if (!address.host.empty()) return address;
  return InvalidArgument("LISTEN_ADDRESS", "{} must be HOST:PORT with a port of 0 to 65535; got \"{}\"", flag, text);
}

bool IsLoopback(const std::string& host) {
  if (host == "localhost") return true;
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == 0) return "localhost";
  return name;
}

absl::StatusOr<std::string> AdvertisedAddress(const ServerOptions& options, int port) {
  if (!options.advertise.empty()) {
    ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress("--advertise", options.advertise));
    if (address.port != 0) return options.advertise;
    return fmt::format("{}:{}", options.advertise.substr(0, options.advertise.rfind(':')), port);
  }
  ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress("--listen", options.listen));
  if (IsAnyAddress(address.host)) return fmt::format("{}:{}", HostName(), port);
  return fmt::format("{}:{}", options.listen.substr(0, options.listen.rfind(':')), port);
}

int64_t MachineMemoryBytes(const std::string& groups, const std::string& mine) {
  int64_t bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  // Without a limit version 2 says "max", which is no number, and version 1 nearly 2^63, which is more than there is.
  for (const std::string& file : MemoryLimitFiles(mine)) {
    std::ifstream group(groups + file);
    int64_t limit = 0;
    if (group >> limit && limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

}  // namespace qamserve
