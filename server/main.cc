// qamserve: reads the options, runs one Server, drains it at SIGTERM or SIGINT.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "core/kernels/kernels.h"
#include "server/options.h"
#include "server/server.h"
#include "server/telemetry/log.h"

namespace qamserve {
namespace {

const char* FromEnvironment(const char* name) { return std::getenv(name); }

// SIGTERM and SIGINT end the server; the draining thread says with SIGUSR1 that it is done. Blocked before any thread
// starts, so that only sigwait sees them.
sigset_t BlockSignals() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

int WaitForEnd(const sigset_t& signals, Server& server) {
  int signal = SIGUSR1;
  while (signal == SIGUSR1) sigwait(&signals, &signal);
  std::thread drain([&server] {
    server.Drain();
    kill(getpid(), SIGUSR1);
  });
  sigwait(&signals, &signal);
  if (signal != SIGUSR1) {
    std::fputs("qamserve: second signal, ending at once\n", stderr);
    _exit(1);
  }
  drain.join();
  return 0;
}

int Fail(const std::string& message) {
  std::fprintf(stderr, "qamserve: %s\n", message.c_str());
  return 1;
}

int Main(int argc, char** argv) {
  const ParsedOptions parsed = ParseOptions(argc, argv, FromEnvironment);
  if (parsed.exit_code) {
    std::fputs(parsed.output.c_str(), *parsed.exit_code == 0 ? stdout : stderr);
    return *parsed.exit_code;
  }
  // Before any thread starts: kernels are looked up all over core/.
  if (!parsed.options.kernels.empty()) setenv(kKernelsVariable, parsed.options.kernels.c_str(), 1);
  const sigset_t signals = BlockSignals();
  const absl::StatusOr<std::shared_ptr<Log>> log = Log::Create(parsed.options.log_level);
  if (!log.ok()) return Fail(MessageOf(log.status()));
  const absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(parsed.options, *log);
  if (!server.ok()) return Fail(MessageOf(server.status()));
  std::printf("listening on %s\n", (*server)->address().c_str());
  std::fflush(stdout);
  return WaitForEnd(signals, **server);
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) { return qamserve::Main(argc, argv); }
