#include "server/options.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <arpa/inet.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <sstream>

#include "core/kernels/kernels.h"
#include "core/model/cuda/open.h"
#include "server/telemetry/log.h"

namespace qamserve {
namespace {

constexpr char kAdminKeyVariable[] = "QAMSERVE_ADMIN_KEY";
constexpr const char* kRoles[] = {"api", "worker", "inference"};

constexpr char kFooter[] =
    "A flag goes before its environment variable, and that before the file of --config.\n"
    "\n"
    "SIGTERM or SIGINT ends the server in order: new requests are refused, running tasks of jobs are put back, running\n"
    "generations get --drain-seconds. A second signal ends it at once: tasks are put back, streams break off. Either\n"
    "way jobs go on at the next start, from the tasks that are done.\n"
    "\n"
    "Exit codes: 0 ended in order; 1 could not start; 2 the options were not understood; 130 (SIGINT) or 143 (SIGTERM)\n"
    "ended at once by a second signal.";

std::string EnvironmentName(std::string_view flag) {
  std::string name = "QAMSERVE_";
  for (const char c : flag.substr(2)) name += c == '-' ? '_' : absl::ascii_toupper(static_cast<unsigned char>(c));
  return name;
}

// Adds one option with its variable in the help text, and remembers it for the environment.
class Flags {
 public:
  explicit Flags(CLI::App& app) : app_(app) {}

  template <typename T>
  CLI::Option* Add(const std::string& flag, T& value, const std::string& help) {
    CLI::Option* option = app_.add_option(flag, value, help + " [" + EnvironmentName(flag) + "]");
    option->capture_default_str();
    options_.emplace_back(flag, option);
    return option;
  }
  void AddSwitch(const std::string& flag, bool& value, const std::string& help) {
    options_.emplace_back(flag, app_.add_flag(flag, value, help + " [" + EnvironmentName(flag) + "]"));
  }
  // "--flag=value" for every variable that is set and whose flag was not given.
  std::vector<std::string> FromEnvironment(Environment environment) const {
    std::vector<std::string> arguments;
    for (const auto& [flag, option] : options_) {
      const char* value = environment(EnvironmentName(flag).c_str());
      if (value != nullptr && option->count() == 0) arguments.push_back(flag + "=" + value);
    }
    return arguments;
  }

 private:
  CLI::App& app_;
  std::vector<std::pair<std::string, CLI::Option*>> options_;
};

void AddAddressFlags(Flags& flags, ServerOptions& o) {
  flags.Add("--data-dir", o.data_dir, "Folder of the stores; made if it is not there, owned by one server at a time");
  flags.Add("--listen", o.listen, "HOST:PORT of gRPC; port 0 takes any free one and prints it");
  flags.Add("--http-listen", o.http_listen,
            "HOST:PORT of HTTP; port 0 takes any free one; \"off\" = none");
  flags.Add("--metrics-listen", o.metrics_listen,
            "HOST:PORT of /metrics, /livez, /readyz and /startupz; port 0 takes any free one; \"off\" = none");
  flags.AddSwitch("--insecure-allow-remote", o.insecure_allow_remote,
                  "Allow addresses that other machines can reach although nothing is encrypted, or nobody is asked who "
                  "they are; never needed with TLS and keys (or --tls-client-ca)");
  flags.Add("--tls-cert", o.tls_cert, "PEM file of the server's certificate and its chain; read again when it changes");
  flags.Add("--tls-key", o.tls_key, "PEM file of the certificate's private key");
  flags.Add("--tls-client-ca", o.tls_client_ca,
            "PEM file of the CAs whose certificates clients must show; empty = clients need none");
  flags.Add("--admin-key-file", o.admin_key_file,
            "File of an API key with every scope that is not stored: the way in for containers. QAMSERVE_ADMIN_KEY "
            "holds such a key itself");
  flags.Add("--roles", o.roles, "What this process does: any of api, worker, inference, separated by commas")
      ->delimiter(',');
  flags.Add("--import-root", o.import_root, "Folder below which ImportCheckpoint may read; empty = no imports");
  flags.Add("--import-mode", o.import_mode,
            "copy: imported files are copied into the store; reference: they stay where they are and must not change");
  flags.Add("--hub-endpoint", o.hub_endpoint,
            "URL of the model hub that hf:// imports read from, with Hugging Face's protocol; \"off\" = none");
  flags.Add("--hub-token-file", o.hub_token_file,
            "File with the token that the hub is shown; without it HF_TOKEN of the environment, if there is one");
  flags.Add("--s3-endpoint", o.s3_endpoint,
            "URL of the object store that s3:// imports read from (path style); empty = none. Its keys are "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the environment");
  flags.Add("--s3-region", o.s3_region, "Region that requests to the object store are signed for");
}

void AddLimitFlags(Flags& flags, ServerOptions& o) {
  flags.Add("--threads", o.threads, "Threads of a job and of each served model; 0 = all cores");
  flags.Add("--device", o.device,
            "Where served models run: cpu, or cuda: and a GPU's number, whose memory then holds weights and KV cache");
  flags.Add("--quantize-device", o.quantize_device,
            "Where a worker's tasks add up inputs and quantize tensors: cpu, or cuda: and a GPU's number; same artifacts");
  flags.Add("--kernels", o.kernels, "Instruction set of the kernels: scalar, avx2, avx512 or amx; empty = the fastest here");
  flags.Add("--memory-limit-mib", o.memory_limit_mib,
            "MiB that served models may take together; 0 = three quarters of the machine's memory");
  flags.Add("--kv-mib", o.kv_mib, "MiB of KV cache of one served model, all sequences together");
  flags.Add("--max-running", o.max_running, "Sequences that one served model works on at a time");
  flags.Add("--max-waiting", o.max_waiting, "Requests that wait for one served model; more are refused");
  flags.Add("--kv-type", o.kv_type,
            "f32: keys and values as computed; int8: a quarter of the memory, slightly rounded");
  flags.AddSwitch("--no-prefix-cache", o.no_prefix_cache,
                  "Forget a prompt when its request ends. With the cache, how fast an answer begins tells whether "
                  "somebody sent the same beginning before");
  flags.Add("--draft-tokens", o.draft_tokens,
            "Most tokens that are guessed from the text before and checked in one step of a request; 0 = none. Answers "
            "stay the same");
  flags.Add("--disk-reserve-mib", o.disk_reserve_mib, "MiB left free on the disk of --data-dir");
  flags.Add("--upload-retention-hours", o.upload_retention_hours,
            "Hours after which an unfinished upload is forgotten");
  flags.Add("--lease-seconds", o.lease_seconds, "Seconds after which the task of a silent worker is given to another");
  flags.Add("--drain-seconds", o.drain_seconds, "Seconds that running generations get after SIGTERM");
  flags.Add("--log-level", o.log_level, "debug, info, warning, error or off; the log is JSON lines on stderr");
}

struct Parser {
  Parser() : app("qamserve: quantizes language models with QAM-W and serves them over gRPC.", "qamserve"), flags(app) {
    app.set_version_flag("--version", std::string("qamserve ") + QAMSERVE_VERSION);
    app.footer(kFooter);
    AddAddressFlags(flags, options);
    AddLimitFlags(flags, options);
  }
  // False: `result` says how to end.
  bool Parse(std::vector<std::string> arguments, ParsedOptions& result) {
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants a vector
    try {
      app.parse(arguments);
      return true;
    } catch (const CLI::ParseError& error) {
      std::ostringstream out;
      std::ostringstream err;
      result.exit_code = app.exit(error, out, err) == 0 ? 0 : 2;
      result.output = out.str() + err.str();
      return false;
    }
  }

  ServerOptions options;
  CLI::App app;
  Flags flags;
};

constexpr char kConfigHelp[] = "File of `name = value` lines (names as the flags, without --; TOML or INI)";

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
  return InvalidArgument("REMOTE_ADDRESS",
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
  if (options.admin_key_file.empty() || options.admin_key.empty()) return absl::OkStatus();
  return InvalidArgument("OPTION", "--admin-key-file and QAMSERVE_ADMIN_KEY both give an admin key; give one");
}

ImportSecrets SecretsFrom(Environment environment) {
  const auto variable = [&](const char* name) {
    const char* value = environment(name);
    return std::string(value == nullptr ? "" : value);
  };
  return {.hub_token = variable("HF_TOKEN"),
          .s3_access_key = variable("AWS_ACCESS_KEY_ID"),
          .s3_secret_key = variable("AWS_SECRET_ACCESS_KEY"),
          .s3_session_token = variable("AWS_SESSION_TOKEN")};
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

}  // namespace

bool ServerOptions::HasRole(std::string_view role) const {
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

bool ServerOptions::ReachesOut() const {
  if (insecure_allow_remote) return false;
  const auto reaches_out = [](const std::string& listen_address) {
    const absl::StatusOr<ListenAddress> address = ParseListenAddress("", listen_address);
    return address.ok() && !IsLoopback(address->host);
  };
  return reaches_out(listen) || (http_listen != "off" && reaches_out(http_listen));
}

absl::Status ValidateOptions(const ServerOptions& o) {
  if (o.data_dir.empty()) return InvalidArgument("OPTION", "--data-dir must not be empty");
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
  RETURN_IF_ERROR(CheckRange("--kv-mib", static_cast<double>(o.kv_mib), 1, kMaxMib));
  RETURN_IF_ERROR(CheckRange("--max-running", o.max_running, 1, 1024));
  RETURN_IF_ERROR(CheckRange("--max-waiting", o.max_waiting, 1, 1'000'000));
  if (o.kv_type != "f32" && o.kv_type != "int8") {
    return InvalidArgument("OPTION", "--kv-type must be f32 or int8; got \"{}\"", o.kv_type);
  }
  RETURN_IF_ERROR(CheckRange("--draft-tokens", o.draft_tokens, 0, 64));
  RETURN_IF_ERROR(CheckRange("--disk-reserve-mib", static_cast<double>(o.disk_reserve_mib), 0, kMaxMib));
  RETURN_IF_ERROR(CheckRange("--upload-retention-hours", o.upload_retention_hours, 1, 24 * 366));
  RETURN_IF_ERROR(CheckRange("--lease-seconds", o.lease_seconds, 1, 3600));
  RETURN_IF_ERROR(CheckRange("--drain-seconds", o.drain_seconds, 0, 3600));
  return Log::Create(o.log_level).status();
}

ParsedOptions ParseOptions(int argc, const char* const* argv, Environment environment) {
  ParsedOptions result;
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  std::string config;
  // CLI11 itself lets the file go before the environment. So the flags are read alone first, the variables of those
  // that were not given become flags, and the file fills what is left.
  Parser first;
  first.flags.Add("--config", config, kConfigHelp);
  if (!first.Parse(arguments, result)) return result;
  const std::vector<std::string> from_environment = first.flags.FromEnvironment(environment);
  arguments.insert(arguments.end(), from_environment.begin(), from_environment.end());

  Parser second;
  second.app.set_config("--config", "", kConfigHelp);
  second.app.allow_config_extras(false);
  if (!second.Parse(arguments, result)) return result;
  result.options = second.options;
  result.options.import_secrets = SecretsFrom(environment);
  if (const char* admin_key = environment(kAdminKeyVariable); admin_key != nullptr) {
    result.options.admin_key = admin_key;
  }
  if (const absl::Status status = ValidateOptions(result.options); !status.ok()) {
    result.exit_code = 2;
    result.output = MessageOf(status) + "\n";
  }
  return result;
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

int64_t MachineMemoryBytes() {
  int64_t bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  std::ifstream group("/sys/fs/cgroup/memory.max");
  int64_t limit = 0;
  if (group >> limit && limit > 0) bytes = std::min(bytes, limit);
  return bytes;
}

}  // namespace qamserve
