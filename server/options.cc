#include "server/options.h"

#include <absl/strings/ascii.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <sstream>

namespace qamserve {
namespace {

constexpr char kAdminKeyVariable[] = "QAMSERVE_ADMIN_KEY";
// What programs that send traces have in common.
constexpr char kOtlpVariable[] = "OTEL_EXPORTER_OTLP_ENDPOINT";

constexpr char kFooter[] =
    "A flag goes before its environment variable, and that before the file of --config.\n"
    "\n"
    "qamserve migrate, qamserve backup FILE and qamserve restore FILE, with the flags that say where the metadata store is,\n"
    "bring its schema up to date, write its rows to a file, or fill an empty store with them; then they end.\n"
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
            "HOST:PORT of HTTP (role api); port 0 takes any free one; \"off\" = none");
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
  flags.Add("--metadata-store", o.metadata_store,
            "postgresql://... of the metadata that several processes share; empty = a file in --data-dir, for this "
            "process alone. A password may also stand in PGPASSWORD or the file of PGPASSFILE");
  flags.Add("--blob-store", o.blob_store,
            "s3://BUCKET[/PREFIX] at --s3-endpoint, of the models and artifacts that several processes share; empty = a "
            "folder in --data-dir. Given together with --metadata-store, or neither");
  flags.Add("--blob-cache-mib", o.blob_cache_mib,
            "MiB of --data-dir that copies of what is in --blob-store may take; 0 = what the disk has");
  flags.AddSwitch("--no-migrate", o.no_migrate,
                  "End where an older program has left the metadata, instead of bringing it up to date");
  flags.Add("--advertise", o.advertise,
            "HOST:PORT under which the other processes reach --listen; port 0 = that of --listen; empty = --listen, with "
            "the name of this machine if that is all addresses");
  flags.Add("--fleet-ca", o.fleet_ca,
            "PEM file of the CAs of the other processes' certificates, with --tls-cert; empty = those of the system");
  flags.Add("--pools", o.pools,
            "Whose tasks a worker takes, separated by commas; empty = cpu, and cuda where --quantize-device is a GPU")
      ->delimiter(',');
  flags.Add("--worker-nice", o.worker_nice,
            "Priority of a worker's threads, as of nice(1), so that serving on the same machine goes first: 0 to 19");
  flags.Add("--import-root", o.import_root, "Folder below which ImportCheckpoint may read; empty = no imports");
  flags.Add("--import-mode", o.import_mode,
            "copy: imported files are copied into the store; reference: they stay where they are and must not change");
  flags.Add("--hub-endpoint", o.hub_endpoint,
            "URL of the model hub that hf:// imports read from, with Hugging Face's protocol; \"off\" = none");
  flags.Add("--hub-token-file", o.hub_token_file,
            "File with the token that the hub is shown; without it HF_TOKEN of the environment, if there is one");
  flags.Add("--s3-endpoint", o.s3_endpoint,
            "URL of the object store of s3:// imports and --blob-store (path style); empty = none. Its keys are "
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
  flags.Add("--garbage-grace-seconds", o.garbage_grace_seconds,
            "Age at which what nothing refers to may be deleted: longer than anything takes from its bytes to its row, and the "
            "same for all processes of a fleet");
  flags.Add("--lease-seconds", o.lease_seconds, "Seconds after which the task of a silent worker is given to another");
  flags.Add("--drain-seconds", o.drain_seconds, "Seconds that running generations get after SIGTERM");
  flags.Add("--log-level", o.log_level, "debug, info, warning, error or off; the log is JSON lines on stderr");
  flags.Add("--otlp-endpoint", o.otlp_endpoint,
            "URL of an OpenTelemetry collector that gets traces by OTLP/HTTP, such as http://127.0.0.1:4318; empty = "
            "OTEL_EXPORTER_OTLP_ENDPOINT of the environment, or no traces");
  flags.Add("--trace-ratio", o.trace_ratio,
            "Part of the traces that begin here that is kept, 0 to 1; a request with a traceparent says it itself");
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

}  // namespace

ParsedOptions ParseOptions(int argc, const char* const* argv, Environment environment,
                           absl::Status (*validate)(const ServerOptions&)) {
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
  if (const char* otlp = environment(kOtlpVariable); otlp != nullptr && result.options.otlp_endpoint.empty()) {
    result.options.otlp_endpoint = otlp;
  }
  if (const absl::Status status = validate(result.options); !status.ok()) {
    result.exit_code = 2;
    result.output = MessageOf(status) + "\n";
  }
  return result;
}

}  // namespace qamserve
