// The qamserve program as a process of its own.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <vector>

namespace qamserve {

class Process {
 public:
  // Starts it and reads the first line of its output, which says where it listens; empty if it ends without one.
  explicit Process(const std::vector<std::string>& arguments) {
    int out[2];
    if (pipe(out) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      dup2(out[1], STDOUT_FILENO);
      dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
      std::vector<char*> argv = {const_cast<char*>(QAMSERVE_BINARY)};
      for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
      argv.push_back(nullptr);
      execv(QAMSERVE_BINARY, argv.data());
      _exit(127);
    }
    close(out[1]);
    char c;
    while (read(out[0], &c, 1) == 1 && c != '\n') line_ += c;
    close(out[0]);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (pid_ <= 0) return;
    Signal(SIGKILL);
    Wait();
  }

  const std::string& line() const { return line_; }
  // HOST:PORT out of the first line.
  std::string address() const { return line_.substr(line_.rfind(' ') + 1); }
  void Signal(int signal) const { kill(pid_, signal); }
  // The exit code, or 128 and the signal that killed it.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  std::string line_;
};

}  // namespace qamserve
