// The qamserve program as a process of its own.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

namespace qamserve {

class Process {
 public:
  // Starts it and reads the first line of its output, which says where it listens; empty if it ends without one. With
  // `http` the second one, too.
  explicit Process(const std::vector<std::string>& arguments, bool http = false) {
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
    line_ = ReadLine(out[0]);
    if (http) http_line_ = ReadLine(out[0]);
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
  // The port out of the second line.
  int http_port() const { return std::atoi(http_line_.substr(http_line_.rfind(':') + 1).c_str()); }
  void Signal(int signal) const { kill(pid_, signal); }
  // The exit code, or 128 and the signal that killed it.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  static std::string ReadLine(int fd) {
    std::string line;
    char c;
    while (read(fd, &c, 1) == 1 && c != '\n') line += c;
    return line;
  }

  pid_t pid_ = -1;
  std::string line_;
  std::string http_line_;
};

}  // namespace qamserve
