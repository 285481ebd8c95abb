#include "tests/support/s3_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <thread>
#include <vector>

#include "core/base/file.h"
#include "server/store/s3_client.h"

namespace qamserve {
namespace {

constexpr char kCachedProgram[] = "/qamserve/seaweedfs-4.48/weed";
constexpr std::chrono::seconds kStartLimit{90};  // seconds on a busy machine; one by itself
constexpr char kIdentities[] = R"({"identities": [
  {"name": "writer", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
   "credentials": [{"accessKey": "writerkey", "secretKey": "writersecret"}]},
  {"name": "reader", "actions": ["Read", "List"],
   "credentials": [{"accessKey": "readerkey", "secretKey": "readersecret"}]}]})";

std::string Program() {
  if (const char* given = std::getenv("QAMSERVE_WEED"); given != nullptr && *given != '\0') return given;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  if (cache != nullptr && *cache != '\0') return std::string(cache) + kCachedProgram;
  return std::string(home == nullptr ? "" : home) + "/.cache" + kCachedProgram;
}

bool IsFree(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  const bool free = ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  ::close(fd);
  return free;
}

// One that is free, and so is the one 10,000 above it, where SeaweedFS puts its gRPC.
int FreePort() {
  std::random_device random;
  for (;;) {
    const int port = 20'000 + static_cast<int>(random() % 12'000);  // below what the system gives out itself
    if (IsFree(port) && IsFree(port + 10'000)) return port;
  }
}

}  // namespace

std::string S3Server::Missing() {
  const std::string program = Program();
  if (::access(program.c_str(), X_OK) == 0) return "";
  return "there is no SeaweedFS at " + program + ": scripts/fetch_seaweedfs.sh gets it, QAMSERVE_WEED names another";
}

SigningKey S3Server::key() {
  return {.region = "us-east-1", .access_key = "writerkey", .secret_key = "writersecret", .session_token = ""};
}
SigningKey S3Server::reader() {
  return {.region = "us-east-1", .access_key = "readerkey", .secret_key = "readersecret", .session_token = ""};
}

std::string S3Server::endpoint() const { return "http://127.0.0.1:" + std::to_string(ports_[0]); }

absl::StatusOr<std::unique_ptr<S3Server>> S3Server::Start() {
  if (const std::string missing = Missing(); !missing.empty()) return NotFound("S3_SERVER", "{}", missing);
  std::unique_ptr<S3Server> server(new S3Server);
  std::string folder = (std::filesystem::temp_directory_path() / "qamserve-s3-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) return ErrnoToStatus("create", folder);
  server->folder_ = std::move(folder);
  RETURN_IF_ERROR(WriteFileAtomically(server->folder_ + "/s3.json", kIdentities));
  for (int& port : server->ports_) port = FreePort();
  RETURN_IF_ERROR(server->Restart());
  return server;
}

S3Server::~S3Server() {
  Kill();
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
}

absl::Status S3Server::Restart() {
  // Everything it listens at by itself is given or turned off, so that two of them get on. By its own elections it
  // would take 8 seconds to start and 18 to start again, so 4.
  const std::vector<std::string> command = {Program(),
                                            "server",
                                            "-dir=" + folder_,
                                            "-ip=127.0.0.1",
                                            "-ip.bind=127.0.0.1",
                                            "-volume.max=200",
                                            "-master.telemetry=false",
                                            "-master.electionTimeout=1s",
                                            "-master.heartbeatInterval=100ms",
                                            "-s3",
                                            "-s3.autoCreateBucket=false",
                                            "-s3.port.iceberg=0",
                                            "-s3.port.lance=0",
                                            "-s3.config=" + folder_ + "/s3.json",
                                            "-s3.port=" + std::to_string(ports_[0]),
                                            "-master.port=" + std::to_string(ports_[1]),
                                            "-volume.port=" + std::to_string(ports_[2]),
                                            "-filer.port=" + std::to_string(ports_[3])};
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const std::string log = folder_ + "/log";
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  if (pid_ < 0) return ErrnoToStatus("fork for", Program());
  return WaitUntilReady();
}

// Ready is a server that stores an object: its parts find each other one after the other.
absl::Status S3Server::WaitUntilReady() {
  S3ClientOptions options;
  options.endpoint = endpoint();
  options.bucket = kBucket;
  options.key = key();
  options.http.attempts = 1;
  S3Client client(options);
  absl::Status status;
  const auto begin = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - begin < kStartLimit) {
    status = client.CreateBucket();
    if (status.ok()) status = client.Put("ready", S3BodyOf("ready"), false).status();
    if (status.ok()) return client.Delete("ready");
    if (::waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return Unavailable("S3_SERVER", "{} ended: {}", Program(), ReadFile(folder_ + "/log", 1 << 20).value_or(""));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  return Annotate(status, "SeaweedFS does not come up");
}

// SIGTERM takes it half a minute.
void S3Server::Kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void S3Server::Pause(bool paused) const {
  if (pid_ > 0) ::kill(pid_, paused ? SIGSTOP : SIGCONT);
}

}  // namespace qamserve
