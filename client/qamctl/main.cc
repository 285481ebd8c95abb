#include <pthread.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string_view>
#include <thread>

#include "client/qamctl/errors.h"
#include "client/qamctl/run.h"

namespace {

using qamserve::qamctl::Interrupts;
using qamserve::qamctl::Terminal;

qamserve::qamctl::ScreenSize AskScreenSize() {
  for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
    winsize size{};
    const bool known = ::ioctl(stream, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0;
    if (known) return {size.ws_col, size.ws_row};
  }
  return {};
}

// Whether a stream ends on a screen that knows how to move its cursor.
bool IsScreen(int stream) {
  const char* kind = std::getenv("TERM");
  return ::isatty(stream) != 0 && kind != nullptr && std::string_view(kind) != "dumb";
}

// As no-color.org has it: set to anything but nothing.
bool IsColorWanted() {
  const char* no_color = std::getenv("NO_COLOR");
  return no_color == nullptr || *no_color == '\0';
}

// Every thread blocks SIGINT but this one, which waits for it: no handler, hence no global state.
void WatchForInterrupt(sigset_t signals, Interrupts& interrupts) {
  int signal = 0;
  while (sigwait(&signals, &signal) == 0) {
    if (interrupts.Fire()) continue;
    // The shell's prompt shall not stand behind ours, or behind ^C.
    if (::isatty(STDERR_FILENO) != 0) std::cerr << "\n" << std::flush;
    ::_exit(qamserve::qamctl::kExitInterrupted);
  }
}

}  // namespace

int main(int argc, char** argv) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  Interrupts interrupts;
  std::thread watcher([signals, &interrupts] { WatchForInterrupt(signals, interrupts); });

  Terminal terminal{.in = std::cin, .out = std::cout, .err = std::cerr, .interrupts = interrupts, .now_seconds = [] {
                      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
                    }};
  terminal.in_tty = ::isatty(STDIN_FILENO) != 0;
  terminal.out_tty = IsScreen(STDOUT_FILENO);
  terminal.err_tty = IsScreen(STDERR_FILENO);
  terminal.color = terminal.out_tty && terminal.err_tty && IsColorWanted();
  terminal.screen_size = AskScreenSize;
  const int code = qamserve::qamctl::RunQamctl(std::vector<std::string>(argv + 1, argv + argc), terminal);
  std::cout.flush();
  // The watcher waits for a signal that may never come; ending the process ends it.
  ::_exit(code);
}
