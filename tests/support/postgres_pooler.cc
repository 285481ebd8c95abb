#include "tests/support/postgres_pooler.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <thread>

#include "core/base/file.h"
#include "tests/support/spawn.h"

namespace qamserve {
namespace {

constexpr const char* kProgram = "/usr/sbin/pgbouncer";
constexpr std::chrono::seconds kPatience{20};

}  // namespace

std::string PostgresPooler::Missing() {
  return access(kProgram, X_OK) == 0 ? "" : "PgBouncer is not installed (Debian: pgbouncer)";
}

absl::StatusOr<std::unique_ptr<PostgresPooler>> PostgresPooler::Start(const PostgresServer& server) {
  std::unique_ptr<PostgresPooler> pooler(new PostgresPooler(server));
  ASSIGN_OR_RETURN(pooler->folder_, MakeSharedFolder());
  const std::string& folder = pooler->folder_;
  std::ofstream(folder + "/users") << fmt::format("\"{}\" \"{}\"\n", PostgresServer::kUser, PostgresServer::kPassword);
  std::ofstream(folder + "/pgbouncer.ini") << fmt::format(
      "[databases]\n* = host={} port=5432\n[pgbouncer]\nlisten_addr =\nlisten_port = 5432\nunix_socket_dir = {}\n"
      "auth_type = trust\nauth_file = {}/users\npool_mode = transaction\ndefault_pool_size = 8\n",
      server.folder(), folder, folder);
  pooler->pid_ = Spawn({kProgram, folder + "/pgbouncer.ini"}, folder + "/pgbouncer.log");
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!std::filesystem::exists(folder + "/.s.PGSQL.5432")) {
    if (waitpid(pooler->pid_, nullptr, WNOHANG) == pooler->pid_ || std::chrono::steady_clock::now() > deadline) {
      pooler->pid_ = -1;
      return Internal("NO_POOLER", "PgBouncer did not start: {}", Tail(FileContents(folder + "/pgbouncer.log")));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return pooler;
}

PostgresPooler::~PostgresPooler() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (!folder_.empty()) RemoveAll(folder_).IgnoreError();
}

int PostgresPooler::Logins() const {
  const std::string log = FileContents(folder_ + "/pgbouncer.log");
  constexpr std::string_view kLogin = "login attempt:";
  int count = 0;
  for (size_t at = log.find(kLogin); at != std::string::npos; at = log.find(kLogin, at + 1)) ++count;
  return count;
}

std::string PostgresPooler::Through(const std::string& uri) const {
  return uri.substr(0, uri.find('?')) + "?host=" + folder_;
}

}  // namespace qamserve
