#include "tests/support/postgres_server.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/base/file.h"
#include "server/store/records.h"
#include "tests/support/spawn.h"

namespace qamserve {
namespace {

// What a fresh cluster of initdb needs on a slow machine that does other things, with time to spare.
constexpr std::chrono::seconds kPatience{60};

// The newest PostgreSQL's folder of programs; empty if there is none.
std::string ProgramFolder() {
  if (const char* given = std::getenv("QAMSERVE_POSTGRES_BIN"); given != nullptr) return given;
  std::string newest;
  int newest_version = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/usr/lib/postgresql", error)) {
    const int version = std::atoi(entry.path().filename().c_str());
    if (version > newest_version && std::filesystem::exists(entry.path() / "bin/initdb", error)) {
      newest_version = version;
      newest = entry.path() / "bin";
    }
  }
  return newest;
}

std::string PercentEncoded(std::string_view text) {
  std::string out;
  for (const char c : text) out += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

std::string PostgresServer::Missing() {
  const std::string programs = ProgramFolder();
  if (programs.empty()) return "PostgreSQL is not installed (Debian: postgresql)";
  if (getuid() == 0 && OtherUser() == nullptr) return "PostgreSQL does not run as root, and there is no other user";
  return access((programs + "/initdb").c_str(), X_OK) == 0 ? "" : programs + "/initdb cannot be run";
}

absl::StatusOr<std::unique_ptr<PostgresServer>> PostgresServer::Start(const std::vector<std::string>& settings) {
  if (const std::string missing = Missing(); !missing.empty()) return Unavailable("NO_POSTGRES", "{}", missing);
  std::unique_ptr<PostgresServer> server(new PostgresServer);
  ASSIGN_OR_RETURN(server->folder_, MakeSharedFolder());
  RETURN_IF_ERROR(server->Initialize(settings));
  RETURN_IF_ERROR(server->Restart());
  RETURN_IF_ERROR(
      server->Psql("postgres", fmt::format("CREATE ROLE {} LOGIN PASSWORD '{}'", kUser, kPassword)).status());
  return server;
}

absl::Status PostgresServer::Initialize(const std::vector<std::string>& settings) {
  RETURN_IF_ERROR(RunProgram({ProgramFolder() + "/initdb", "-D", folder_ + "/data", "-A", "trust", "-U", "postgres",
                              "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"},
                             folder_ + "/initdb.log")
                      .status());
  // Only the machine's failure could lose what is not synced. A process that is killed while it writes a page leaves
  // half of a new one, though, so full_page_writes stays on.
  std::string conf =
      "listen_addresses = ''\nfsync = off\nshared_buffers = 32MB\nmax_connections = 150\n"
      "password_encryption = 'scram-sha-256'\nwal_keep_size = 64MB\nmax_wal_size = 256MB\n";
  conf += fmt::format("unix_socket_directories = '{}'\n", folder_);
  for (const std::string& setting : settings) conf += setting + "\n";
  std::ofstream(folder_ + "/data/postgresql.conf", std::ios::app) << conf;
  std::ofstream(folder_ + "/data/pg_hba.conf") << "local all postgres trust\nlocal replication postgres trust\n"
                                               << "local all all scram-sha-256\n";
  return absl::OkStatus();
}

absl::Status PostgresServer::Restart() {
  pid_ = Spawn({ProgramFolder() + "/postgres", "-D", folder_ + "/data"}, folder_ + "/server.log");
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    if (RunProgram({ProgramFolder() + "/pg_isready", "-q", "-h", folder_}, folder_ + "/ready.log").ok()) {
      return absl::OkStatus();
    }
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return Internal("NO_SERVER", "PostgreSQL did not start: {}", Tail(FileContents(folder_ + "/server.log")));
}

absl::StatusOr<std::unique_ptr<PostgresServer>> PostgresServer::StartStandby() const {
  std::unique_ptr<PostgresServer> standby(new PostgresServer);
  ASSIGN_OR_RETURN(standby->folder_, MakeSharedFolder());
  RETURN_IF_ERROR(RunProgram({ProgramFolder() + "/pg_basebackup", "-h", folder_, "-U", "postgres", "-D",
                              standby->folder_ + "/data", "-R", "-X", "stream", "-c", "fast", "--no-sync"},
                             standby->folder_ + "/basebackup.log")
                      .status());
  std::ofstream(standby->folder_ + "/data/postgresql.conf", std::ios::app)
      << fmt::format("unix_socket_directories = '{}'\n", standby->folder_);
  RETURN_IF_ERROR(standby->Restart());
  return standby;
}

absl::Status PostgresServer::Promote() const {
  ASSIGN_OR_RETURN(const std::string promoted, Psql("postgres", "SELECT pg_promote(true, 60)"));
  return promoted == "t" ? absl::OkStatus() : Internal("NOT_PROMOTED", "pg_promote said '{}'", promoted);
}

PostgresServer::~PostgresServer() {
  Kill();
  if (!folder_.empty()) RemoveAll(folder_).IgnoreError();
}

absl::StatusOr<std::string> PostgresServer::NewDatabase() const {
  const std::string name = "t" + RandomId();
  RETURN_IF_ERROR(Psql("postgres", fmt::format("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'"
                                               " LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'",
                                               name, kUser))
                      .status());
  return Uri(name);
}

std::string PostgresServer::Uri(std::string_view database, std::string_view user, std::string_view password) const {
  return fmt::format("postgresql://{}{}{}@/{}?host={}", user, password.empty() ? "" : ":", PercentEncoded(password),
                     database, PercentEncoded(folder_));
}

absl::StatusOr<std::string> PostgresServer::Psql(std::string_view database, std::string_view sql) const {
  const std::string output = folder_ + "/psql-" + RandomId() + ".log";
  auto text = RunProgram({ProgramFolder() + "/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", folder_,
                          "-U", "postgres", "-d", std::string(database), "-c", std::string(sql)},
                         output);
  std::filesystem::remove(output);
  if (text.ok() && !text->empty() && text->back() == '\n') text->pop_back();
  return text;
}

std::vector<pid_t> PostgresServer::Processes() const {
  std::vector<pid_t> processes = {pid_};
  std::istringstream children(FileContents(fmt::format("/proc/{}/task/{}/children", pid_, pid_)));
  for (pid_t child = 0; children >> child;) processes.push_back(child);
  return processes;
}

void PostgresServer::Kill() {
  if (pid_ <= 0) return;
  // Stopped first, so that it starts no more of them.
  kill(pid_, SIGSTOP);
  const std::vector<pid_t> processes = Processes();
  for (const pid_t process : processes) kill(process, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
  // A new server refuses to start while one of them still has the shared memory.
  for (const pid_t process : processes) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (kill(process, 0) == 0 && std::chrono::steady_clock::now() < deadline) {
      const std::string state = FileContents(fmt::format("/proc/{}/stat", process));
      if (const size_t end = state.rfind(')'); end != std::string::npos && state.compare(end, 3, ") Z") == 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
}

void PostgresServer::Pause(bool paused) const {
  if (paused) kill(pid_, SIGSTOP);
  for (const pid_t process : Processes()) kill(process, paused ? SIGSTOP : SIGCONT);
}

double PostgresServer::CpuSeconds() const {
  double ticks = 0;
  for (const pid_t process : Processes()) {
    const std::string stat = FileContents(fmt::format("/proc/{}/stat", process));
    // Behind the name, which may have blanks in it: the state, ten numbers, then utime, stime, cutime, cstime
    // (proc(5)).
    std::istringstream fields(stat.substr(std::min(stat.rfind(')') + 1, stat.size())));
    std::string skipped;
    for (int i = 0; i < 11; ++i) fields >> skipped;
    // Of those that have ended, the first process counts what they used.
    const int counted = process == pid_ ? 4 : 2;
    for (int i = 0; i < counted; ++i) {
      double value = 0;
      fields >> value;
      ticks += value;
    }
  }
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void PostgresServer::Stop() {
  if (pid_ <= 0) return;
  kill(pid_, SIGINT);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace qamserve
