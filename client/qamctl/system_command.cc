// system.
#include "client/qamctl/commands.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

std::string Share(int64_t part, int64_t whole) {
  return fmt::format("{} of {}", HumanBytes(static_cast<double>(part)), HumanBytes(static_cast<double>(whole)));
}

absl::Status ShowSystem(Session& session) {
  ASSIGN_OR_RETURN(const v1::System system, session.client().GetSystem());
  if (session.json()) return session.PrintJson(system);
  std::string roles;
  for (const std::string& role : system.roles()) roles += roles.empty() ? role : ", " + role;
  session.Print(fmt::format("{} {}{}", Bold(session.terminal(), "qamserve"), system.version(),
                            system.draining() ? "  shutting down" : ""));
  const auto line = [&](const char* what, const std::string& value) {
    session.Print(fmt::format("  {:<12}{}", what, value));
  };
  line("since", HumanTime(system.start_time()) + " UTC");
  line("roles", roles);
  line("codec", system.codec_version());
  line("device", fmt::format("{}; quantizing: {}; {} threads, {} kernels", system.device(), system.quantize_device(),
                             system.threads(), system.kernels()));
  line("models", fmt::format("{} ready, {}", system.models_ready(),
                             Share(system.memory_used_bytes(), system.memory_limit_bytes())));
  line("requests", fmt::format("{} running, {} waiting", system.requests_running(), system.requests_waiting()));
  line("jobs", fmt::format("{} running, {} queued", system.jobs_running(), system.jobs_queued()));
  line("memory", HumanBytes(static_cast<double>(system.process_memory_bytes())) + " resident");
  line("disk", Share(system.disk_free_bytes(), system.disk_size_bytes()) + " free");
  line("keys", system.keys_required() ? "required" : "none: everyone who reaches this server may do everything");
  return absl::OkStatus();
}

}  // namespace

Action BuildSystem(CLI::App&) { return ShowSystem; }

}  // namespace qamserve::qamctl
