#include "tests/support/spawn.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

namespace qamserve {

const passwd* OtherUser() {
  if (getuid() != 0) return nullptr;
  const passwd* user = getpwnam("postgres");
  return user != nullptr ? user : getpwnam("nobody");
}

absl::StatusOr<std::string> MakeSharedFolder() {
  std::string folder = "/tmp/qamserve-test-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return Internal("NO_FOLDER", "cannot make {}", folder);
  const passwd* user = OtherUser();
  if (user != nullptr && chown(folder.c_str(), user->pw_uid, user->pw_gid) != 0) {
    return Internal("NO_FOLDER", "cannot give {} to {}", folder, user->pw_name);
  }
  // The test itself is another user then, and needs the way to sockets in it.
  if (chmod(folder.c_str(), 0755) != 0) return Internal("NO_FOLDER", "cannot open {} to others", folder);
  return folder;
}

pid_t Spawn(const std::vector<std::string>& command, const std::string& output) {
  const passwd* user = OtherUser();
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  // All that takes memory is done before the fork: other threads may hold locks that the child never gets.
  std::vector<char*> environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text(*variable);
    if (!text.starts_with("LC_ALL=") && !text.starts_with("PG")) environment.push_back(*variable);
  }
  std::string locale = "LC_ALL=C.UTF-8";
  environment.push_back(locale.data());
  environment.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid != 0) return pid;
  const int out = open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  const int in = open("/dev/null", O_RDONLY);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  if (user != nullptr &&
      (setgroups(0, nullptr) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0 || chdir("/") != 0)) {
    _exit(126);
  }
  // After the change of user, which would clear it. SIGQUIT is PostgreSQL's immediate shutdown.
  prctl(PR_SET_PDEATHSIG, SIGQUIT);
  if (getppid() != parent) _exit(125);
  execve(argv[0], argv.data(), environment.data());
  _exit(127);
}

std::string FileContents(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Tail(const std::string& text) {
  constexpr size_t kMost = 2000;
  return text.size() <= kMost ? text : text.substr(text.size() - kMost);
}

absl::StatusOr<std::string> RunProgram(const std::vector<std::string>& command, const std::string& output) {
  std::filesystem::remove(output);
  const pid_t pid = Spawn(command, output);
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return Internal("NO_PROCESS", "cannot run {}", command[0]);
  std::string text = FileContents(output);
  if (status != 0) return Internal("PROGRAM_FAILED", "{} ended with {}: {}", command[0], status, Tail(text));
  return text;
}

}  // namespace qamserve
