#include <pthread.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "client/qamctl/errors.h"
#include "client/qamctl/run.h"

namespace {

using qamserve::qamctl::Interrupts;
using qamserve::qamctl::Terminal;

int ScreenWidth() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 100;
}

// Every thread blocks SIGINT but this one, which waits for it: no handler, hence no global state.
void WatchForInterrupt(sigset_t signals, Interrupts& interrupts) {
  int signal = 0;
  while (sigwait(&signals, &signal) == 0) {
    if (!interrupts.Fire()) ::_exit(qamserve::qamctl::kExitInterrupted);
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
  terminal.out_tty = ::isatty(STDOUT_FILENO) != 0;
  terminal.err_tty = ::isatty(STDERR_FILENO) != 0;
  terminal.color = terminal.out_tty && terminal.err_tty && std::getenv("NO_COLOR") == nullptr;
  terminal.width = ScreenWidth();
  const int code = qamserve::qamctl::RunQamctl(std::vector<std::string>(argv + 1, argv + argc), terminal);
  std::cout.flush();
  // The watcher waits for a signal that may never come; ending the process ends it.
  ::_exit(code);
}
