#include "tests/support/postgres_proxy.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

namespace qamserve {
namespace {

sockaddr_un SocketIn(const std::string& folder) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string path = folder + "/.s.PGSQL.5432";
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return address;
}

bool SendAll(int to, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(to, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

using Buffer = std::array<char, 65536>;

std::string_view Receive(int from, Buffer& buffer) {
  const ssize_t got = recv(from, buffer.data(), buffer.size(), 0);
  return {buffer.data(), got > 0 ? static_cast<size_t>(got) : 0};
}

bool PassOn(int from, int to) {
  Buffer buffer;
  const std::string_view bytes = Receive(from, buffer);
  return !bytes.empty() && SendAll(to, bytes);
}

}  // namespace

PostgresProxy::PostgresProxy(const std::string& folder, std::string server_folder)
    : server_folder_(std::move(server_folder)),
      listener_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      stop_(eventfd(0, EFD_CLOEXEC)) {
  const sockaddr_un address = SocketIn(folder);
  if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || listen(listener_, 64) != 0) {
    return;  // clients find nothing there, and the test fails
  }
  acceptor_ = std::thread([this] { Accept(); });
}

PostgresProxy::~PostgresProxy() {
  const uint64_t one = 1;
  (void)!write(stop_, &one, sizeof one);
  if (acceptor_.joinable()) acceptor_.join();
  for (std::thread& connection : connections_) connection.join();
  close(listener_);
  close(stop_);
}

void PostgresProxy::Accept() {
  while (true) {
    pollfd fds[2] = {{.fd = listener_, .events = POLLIN, .revents = 0}, {.fd = stop_, .events = POLLIN, .revents = 0}};
    poll(fds, 2, -1);
    if (fds[1].revents != 0) return;
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client >= 0) connections_.emplace_back([this, client] { Serve(client); });
  }
}

void PostgresProxy::Serve(int client) {
  const int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_un address = SocketIn(server_folder_);
  bool open = connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  while (open) {
    pollfd fds[3] = {{.fd = client, .events = POLLIN, .revents = 0},
                     {.fd = server, .events = POLLIN, .revents = 0},
                     {.fd = stop_, .events = POLLIN, .revents = 0}};
    poll(fds, 3, -1);
    if (fds[2].revents != 0) break;
    if (fds[0].revents != 0) open = FromClient(client, server);
    if (open && fds[1].revents != 0) open = PassOn(server, client);
  }
  close(server);
  close(client);
}

bool PostgresProxy::FromClient(int client, int server) {
  Buffer buffer;
  const std::string_view bytes = Receive(client, buffer);
  if (bytes.empty()) return false;
  // A simple query that ends so; other statements that have the word are none.
  const bool commit = bytes.front() == 'Q' && bytes.ends_with(std::string_view("COMMIT\0", 7));
  if (!commit || cut_ == Cut::kNever) return SendAll(server, bytes);
  const Cut cut = cut_.exchange(Cut::kNever);
  ++cuts_;
  if (cut == Cut::kBeforeCommit || !SendAll(server, bytes)) return false;
  if (cut == Cut::kBeforeTheAnswer) Receive(server, buffer);
  return false;
}

}  // namespace qamserve
