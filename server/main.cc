// qamserve: reads the options, runs one Server, drains it at SIGTERM or SIGINT, and ends at once at a second one. Or does
// something with its store instead (store_commands.h).
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/kernels/kernels.h"
#include "server/options.h"
#include "server/server.h"
#include "server/store_commands.h"
#include "server/telemetry/log.h"

namespace qamserve {
namespace {

// The exit code of options that were not understood.
constexpr int kMisunderstood = 2;

const char* FromEnvironment(const char* name) { return std::getenv(name); }

// What a second signal grants the metadata store for one small transaction a task.
constexpr timespec kPutBackTime = {.tv_sec = 2, .tv_nsec = 0};

// SIGTERM and SIGINT end the server; threads of our own say with SIGUSR1 that they are done. Blocked before any thread
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

// The server until it has been drained. Thread-safe.
class RunningServer {
 public:
  explicit RunningServer(std::unique_ptr<Server> server) : server_(std::move(server)) {}

  void DrainAndDestroy() {
    server_->Drain();
    std::unique_ptr<Server> drained;
    {
      const std::lock_guard lock(mutex_);
      drained = std::move(server_);
    }
  }
  // After the drain no task is left to put back.
  void PutBackTasks() {
    const std::lock_guard lock(mutex_);
    if (server_ != nullptr) server_->PutBackTasks();
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<Server> server_;  // taken away under mutex_
};

// Ends the process, whatever the server's threads are doing.
[[noreturn]] void EndAtOnce(const sigset_t& signals, int signal, RunningServer& server) {
  std::thread([&server] {
    server.PutBackTasks();
    kill(getpid(), SIGUSR1);
  }).detach();
  // Done, or out of time, or a third signal.
  sigtimedwait(&signals, nullptr, &kPutBackTime);
  _exit(128 + signal);
}

// Returns once the server is gone. Not before: a second signal is heeded to the last.
void WaitForEnd(const sigset_t& signals, std::unique_ptr<Server> running) {
  int signal = SIGUSR1;
  while (signal == SIGUSR1) sigwait(&signals, &signal);
  RunningServer server(std::move(running));
  std::atomic<bool> ended{false};
  std::thread drain([&] {
    server.DrainAndDestroy();
    ended = true;
    kill(getpid(), SIGUSR1);
  });
  while (!ended) {
    sigwait(&signals, &signal);
    if (signal != SIGUSR1) EndAtOnce(signals, signal, server);
  }
  drain.join();
}

// Each connection is an open file. The usual soft limit, 1024, is there for programs that call select().
void AllowManyFiles() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

// The reason is what docs/operations.md lists.
int Fail(const absl::Status& error) {
  std::fprintf(stderr, "qamserve: %s (%s)\n", MessageOf(error).c_str(), ReasonOf(error).c_str());
  return 1;
}

int Main(int argc, char** argv) {
  std::vector<std::string> arguments(argv, argv + argc);
  const absl::StatusOr<std::optional<StoreCommand>> command = TakeStoreCommand(arguments);
  if (!command.ok()) {
    Fail(command.status());
    return kMisunderstood;
  }
  std::vector<const char*> flags;
  flags.reserve(arguments.size());
  for (const std::string& argument : arguments) flags.push_back(argument.c_str());
  const ParsedOptions parsed = ParseOptions(static_cast<int>(flags.size()), flags.data(), FromEnvironment,
                                            command->has_value() ? ValidateMetadataOptions : ValidateOptions);
  if (parsed.exit_code) {
    std::fputs(parsed.output.c_str(), *parsed.exit_code == 0 ? stdout : stderr);
    return *parsed.exit_code;
  }
  if (command->has_value()) {
    const absl::StatusOr<std::string> done = RunStoreCommand(**command, parsed.options);
    if (!done.ok()) return Fail(done.status());
    std::printf("%s\n", done->c_str());
    return 0;
  }
  // Before any thread starts: kernels are looked up all over core/.
  if (!parsed.options.kernels.empty()) setenv(kKernelsVariable, parsed.options.kernels.c_str(), 1);
  const sigset_t signals = BlockSignals();
  AllowManyFiles();
  const absl::StatusOr<std::shared_ptr<Log>> log = Log::Create(parsed.options.log_level);
  if (!log.ok()) return Fail(log.status());
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(parsed.options, *log);
  if (!server.ok()) return Fail(server.status());
  std::printf("listening on %s\n", (*server)->address().c_str());
  if (const std::string url = (*server)->http_url(); !url.empty()) std::printf("http on %s\n", url.c_str());
  std::fflush(stdout);
  WaitForEnd(signals, *std::move(server));
  return 0;
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) { return qamserve::Main(argc, argv); }
