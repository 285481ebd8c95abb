// Stands between a PostgreSQL client and its server, on Unix sockets, and breaks a connection at a chosen moment.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

namespace qamserve {

class PostgresProxy {
 public:
  // What becomes of the next COMMIT that a client sends, and of its connection.
  enum class Cut {
    kNever,
    kBeforeCommit,    // the server never sees it
    kWithCommit,      // the server has it; the connection ends at once
    kBeforeTheAnswer  // the server has done it; its answer is lost
  };

  // Listens in `folder`, as PostgreSQL does, for what goes on to the server whose socket is in `server_folder`.
  PostgresProxy(const std::string& folder, std::string server_folder);
  ~PostgresProxy();
  PostgresProxy(const PostgresProxy&) = delete;
  PostgresProxy& operator=(const PostgresProxy&) = delete;

  void CutNext(Cut cut) { cut_ = cut; }
  int cuts() const { return cuts_; }

 private:
  void Accept();
  void Serve(int client);
  // False if the connection is to end.
  bool FromClient(int client, int server);

  const std::string server_folder_;
  int listener_ = -1;
  int stop_ = -1;  // readable when the proxy ends
  std::atomic<Cut> cut_{Cut::kNever};
  std::atomic<int> cuts_{0};
  std::thread acceptor_;
  std::vector<std::thread> connections_;  // of the acceptor, until it has ended
};

}  // namespace qamserve
