// What every command is given: the global flags, the terminal and the client.
#pragma once

#include <google/protobuf/message.h>

#include <memory>
#include <string>
#include <string_view>

#include "client/client.h"
#include "client/qamctl/terminal.h"

namespace qamserve::qamctl {

inline constexpr char kApiKeyVariable[] = "QAMCTL_API_KEY";

struct GlobalFlags {
  bool json = false;
  std::string address;         // empty: as ClientOptions says
  double timeout_seconds = 0;  // 0: as ClientOptions says
  std::string tls_ca;          // paths; empty: none
  std::string tls_cert;
  std::string tls_key;
  std::string api_key_file;    // empty: QAMCTL_API_KEY
};

// One command's run. Not thread-safe.
class Session {
 public:
  Session(Terminal& terminal, GlobalFlags flags) : terminal_(terminal), flags_(std::move(flags)) {}

  Terminal& terminal() { return terminal_; }
  bool json() const { return flags_.json; }
  double timeout_seconds() const { return flags_.timeout_seconds; }  // 0: none was given
  // Reads the TLS files and the API key that the flags and QAMCTL_API_KEY give; before the first use of `client`.
  absl::Status ReadCredentials();
  // Made at first use; it connects at the first call.
  Client& client();

  // Results for people, on the output; nothing with --json.
  void Print(std::string_view line);
  // What goes on meanwhile, on the error stream; nothing with --json.
  void Note(std::string_view line);
  // One JSON object, one line, on the output; all fields, so that a reader need not know which are zero.
  absl::Status PrintJson(const google::protobuf::Message& message);

 private:
  Terminal& terminal_;
  GlobalFlags flags_;
  ClientTls tls_;
  std::string api_key_;
  std::unique_ptr<Client> client_;
};

// Bold, green or red on a terminal that has colour, else the text as it is.
std::string Bold(const Terminal& terminal, std::string_view text);
std::string Green(const Terminal& terminal, std::string_view text);
std::string Red(const Terminal& terminal, std::string_view text);

}  // namespace qamserve::qamctl
