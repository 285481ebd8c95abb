#include "client/qamctl/run.h"

#include <algorithm>

#include "client/qamctl/commands.h"
#include "client/qamctl/errors.h"

namespace qamserve::qamctl {
namespace {

constexpr char kFooter[] = "Every command also takes --json, --address, --timeout, --api-key-file and --tls-ca (see `qamctl --help`).";

constexpr char kRootFooter[] =
    "`qamctl COMMAND --help` explains a command. A checkpoint, artifact or job may be given by its resource name, the\n"
    "beginning of its digest, or its display name.\n"
    "\n"
    "Exit codes: 0 done; 1 failed; 2 the command line was not understood; 3 not found; 4 the server was not reached "
    "or\n"
    "did not answer in time; 130 stopped by Ctrl-C.\n"
    "\n"
    "The whole road:\n"
    "  qamctl quantize ./model.gguf --watch\n"
    "  qamctl report ARTIFACT\n"
    "  qamctl load ARTIFACT --name mine\n"
    "  qamctl chat mine";

void AddGlobalFlags(CLI::App& app, GlobalFlags& flags) {
  app.add_flag("--json", flags.json, "Print JSON only: one object, or one object a line where things come one by one");
  app.add_option("--address", flags.address, fmt::format("Server as HOST:PORT (default {})", kDefaultAddress))
      ->envname(kAddressVariable)
      ->type_name("HOST:PORT");
  app.add_option("--timeout", flags.timeout_seconds,
                 "Seconds a call may take (default: 60; an hour for load, import and the check after an upload; no "
                 "limit for streams)")
      ->check(CLI::Range(0.001, 1e6))
      ->type_name("SECONDS");
  const auto add_file = [&](const char* flag, std::string& path, const char* variable, const std::string& help) {
    app.add_option(flag, path, help)->envname(variable)->type_name("FILE");
  };
  add_file("--tls-ca", flags.tls_ca, "QAMCTL_TLS_CA",
           "Encrypt, and take only a server whose certificate is signed by a CA in this PEM file");
  add_file("--tls-cert", flags.tls_cert, "QAMCTL_TLS_CERT", "Show this certificate (PEM) to a server that asks for one");
  add_file("--tls-key", flags.tls_key, "QAMCTL_TLS_KEY", "The key of --tls-cert (PEM)");
  app.add_option("--api-key-file", flags.api_key_file,
                 fmt::format("File with the API key to call with (default: the key in {})", kApiKeyVariable))
      ->type_name("FILE");
}

// Whether `typed` is `name` with one letter missing, added or wrong, or two neighbours swapped.
bool IsSlipOf(std::string_view typed, std::string_view name) {
  const auto [a, b] = std::mismatch(typed.begin(), typed.end(), name.begin(), name.end());
  const std::string_view typed_rest(a, typed.end());
  const std::string_view name_rest(b, name.end());
  const auto tail = [](std::string_view text, size_t n) { return text.substr(std::min(n, text.size())); };
  const bool swapped = typed_rest.size() > 1 && name_rest.size() > 1 && typed_rest[0] == name_rest[1] &&
                       typed_rest[1] == name_rest[0] && tail(typed_rest, 2) == tail(name_rest, 2);
  return swapped || tail(typed_rest, 1) == name_rest || typed_rest == tail(name_rest, 1) ||
         tail(typed_rest, 1) == tail(name_rest, 1);
}

std::string ExplainUsage(const CLI::App& root, const CLI::ParseError& error) {
  if (!root.get_subcommands().empty()) {
    return fmt::format("{}; see `qamctl {} --help`", error.what(), root.get_subcommands()[0]->get_name());
  }
  const std::vector<std::string> rest = root.remaining();
  if (rest.empty() || rest[0].starts_with('-')) return fmt::format("{}; see `qamctl --help`", error.what());
  std::string message = fmt::format("there is no command \"{}\"; see `qamctl --help`", rest[0]);
  for (const Command& command : Commands()) {
    if (IsSlipOf(rest[0], command.name)) message += fmt::format("; did you mean `qamctl {}`?", command.name);
  }
  return message;
}

// Says on the right stream what the parser made of the command line. `--json` may not have been reached by then.
int ReportParse(const CLI::App& root, const CLI::ParseError& error, bool json, Terminal& terminal) {
  if (error.get_exit_code() == 0) {
    root.exit(error, terminal.out, terminal.err);
    return kExitOk;
  }
  PrintError(terminal, json, "", InvalidArgument("USAGE", "{}", ExplainUsage(root, error)));
  return kExitUsage;
}

}  // namespace

int RunQamctl(const std::vector<std::string>& arguments, Terminal& terminal) {
  CLI::App root("qamctl: quantize models with qamserve, measure them, serve them and talk with them.", "qamctl");
  GlobalFlags flags;
  AddGlobalFlags(root, flags);
  root.fallthrough();
  root.require_subcommand(1);
  root.footer(kRootFooter);
  std::vector<std::pair<CLI::App*, Action>> actions;
  for (const Command& command : Commands()) {
    CLI::App* app = root.add_subcommand(command.name, command.summary)->group(command.group);
    app->footer(kFooter);
    actions.emplace_back(app, command.build(*app));
    for (CLI::App* verb : app->get_subcommands({})) verb->group("Verbs")->footer(kFooter);
  }
  try {
    // CLI11 takes a vector from its end.
    root.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    const bool json = std::find(arguments.begin(), arguments.end(), "--json") != arguments.end();
    return ReportParse(root, error, json, terminal);
  }
  Session session(terminal, flags);
  absl::Status status = session.ReadCredentials();
  if (status.ok()) status = RunVerb(std::move(actions), [](Session&) { return absl::OkStatus(); })(session);
  if (!status.ok()) PrintError(terminal, flags.json, session.client().address(), status);
  return ExitCodeOf(status);
}

}  // namespace qamserve::qamctl
