#include "client/qamctl/session.h"

#include <google/protobuf/util/json_util.h>

#include <cstdlib>

namespace qamserve::qamctl {
namespace {

std::string Styled(const Terminal& terminal, std::string_view code, std::string_view text) {
  return terminal.color ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
}

}  // namespace

absl::Status Session::ReadCredentials() {
  ASSIGN_OR_RETURN(tls_, ReadClientTls(flags_.tls_ca, flags_.tls_cert, flags_.tls_key));
  if (!flags_.api_key_file.empty()) {
    ASSIGN_OR_RETURN(api_key_, ReadApiKey(flags_.api_key_file));
    return absl::OkStatus();
  }
  const char* variable = std::getenv(kApiKeyVariable);
  if (variable == nullptr || *variable == '\0') return absl::OkStatus();
  RETURN_IF_ERROR(CheckApiKey(kApiKeyVariable, variable));
  api_key_ = variable;
  return absl::OkStatus();
}

Client& Session::client() {
  if (client_ == nullptr) {
    ClientOptions options;
    options.address = flags_.address;
    options.timeout_ms = static_cast<int64_t>(flags_.timeout_seconds * 1000);
    options.tls = tls_;
    options.api_key = api_key_;
    client_ = std::make_unique<Client>(std::move(options));
  }
  return *client_;
}

void Session::Print(std::string_view line) {
  if (!json()) terminal_.out << line << "\n" << std::flush;
}

void Session::Note(std::string_view line) {
  if (!json()) terminal_.err << line << "\n" << std::flush;
}

absl::Status Session::PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  if (!status.ok()) return Internal("JSON", "cannot write the answer as JSON: {}", status.ToString());
  terminal_.out << text << "\n" << std::flush;
  return absl::OkStatus();
}

std::string Bold(const Terminal& terminal, std::string_view text) { return Styled(terminal, "1", text); }
std::string Green(const Terminal& terminal, std::string_view text) { return Styled(terminal, "32", text); }
std::string Red(const Terminal& terminal, std::string_view text) { return Styled(terminal, "31", text); }

}  // namespace qamserve::qamctl
