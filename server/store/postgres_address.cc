#include "server/store/postgres_address.h"

#include <absl/cleanup/cleanup.h>
#include <libpq-fe.h>

#include <algorithm>
#include <map>
#include <string_view>

namespace qamserve {
namespace {

constexpr std::string_view kForm =
    "expected postgresql://USER[:PASSWORD]@HOST[:PORT][,HOST[:PORT]...]/DATABASE[?OPTION=VALUE...], with '%' and two "
    "hex digits for each character of user and password that is neither a letter nor a digit";

std::vector<std::string> SplitAtCommas(const std::string& text) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (true) {
    const size_t end = text.find(',', begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + 1;
  }
}

bool IsPort(const std::string& text) {
  return !text.empty() && text.size() <= 5 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

absl::StatusOr<std::map<std::string, std::string>> ReadOptions(const std::string& uri) {
  char* error = nullptr;
  PQconninfoOption* options = PQconninfoParse(uri.c_str(), &error);
  // libpq's message repeats parts of the URI, and in a URI that it cannot read any part may be the password.
  if (error != nullptr) PQfreemem(error);
  if (options == nullptr) return InvalidArgument("STORE_URI", "the metadata store's URI cannot be read: {}", kForm);
  const absl::Cleanup free_options = [options] { PQconninfoFree(options); };
  std::map<std::string, std::string> found;
  for (const PQconninfoOption* option = options; option->keyword != nullptr; ++option) {
    if (option->val != nullptr) found[option->keyword] = option->val;
  }
  return found;
}

// The store writes, so that it takes no other server than one that can be written to, and looks for it by itself.
absl::Status CheckSessionAttributes(std::map<std::string, std::string>& options) {
  const auto it = options.find("target_session_attrs");
  if (it == options.end()) return absl::OkStatus();
  if (it->second != "any" && it->second != "read-write" && it->second != "primary") {
    return InvalidArgument(
        "STORE_URI", "the metadata store's URI has target_session_attrs={}; the store must be writable: read-write",
        it->second);
  }
  options.erase(it);
  return absl::OkStatus();
}

std::string Shown(const std::map<std::string, std::string>& options, const std::vector<std::string>& hosts,
                  const std::vector<std::string>& ports) {
  const auto value = [&](const char* name) {
    const auto it = options.find(name);
    return it == options.end() ? std::string() : it->second;
  };
  std::string places;
  for (size_t i = 0; i < hosts.size(); ++i) {
    places += (i > 0 ? "," : "") + hosts[i];
    if (const std::string& port = ports.size() > 1 ? ports[i] : ports[0]; !port.empty()) places += ":" + port;
  }
  const std::string user = value("user");
  return fmt::format("postgresql://{}{}{}/{}", user, user.empty() ? "" : "@", places, value("dbname"));
}

}  // namespace

absl::StatusOr<PostgresAddress> ParsePostgresUri(const std::string& uri, const PostgresOptions& store_options) {
  if (uri.rfind("postgresql://", 0) != 0 && uri.rfind("postgres://", 0) != 0) {
    return InvalidArgument("STORE_URI", "the metadata store's URI does not begin with postgresql://: {}", kForm);
  }
  ASSIGN_OR_RETURN(auto options, ReadOptions(uri));
  RETURN_IF_ERROR(CheckSessionAttributes(options));
  const std::vector<std::string> hosts = SplitAtCommas(options["host"]);
  const std::vector<std::string> addresses = SplitAtCommas(options["hostaddr"]);
  const std::vector<std::string> ports = SplitAtCommas(options["port"]);
  const size_t count = std::max(hosts.size(), addresses.size());
  if ((hosts.size() != count && !options["host"].empty()) ||
      (addresses.size() != count && !options["hostaddr"].empty()) || (ports.size() != count && ports.size() != 1)) {
    return InvalidArgument("STORE_URI", "the metadata store's URI has {} hosts, {} addresses and {} ports",
                           hosts.size(), addresses.size(), ports.size());
  }
  for (const std::string& port : ports) {
    if (!port.empty() && !IsPort(port)) {
      return InvalidArgument("STORE_URI", "the metadata store's URI has a port that is no number: {}", kForm);
    }
  }
  PostgresAddress out;
  out.shown = Shown(options, options["host"].empty() && count > 1 ? addresses : hosts, ports);
  for (const char* name : {"host", "hostaddr", "port"}) options.erase(name);
  // A connection whose other end is gone is noticed after about 25 s without an answer, and 15 s when something was
  // sent.
  const std::map<std::string, std::string> defaults = {{"application_name", store_options.application_name},
                                                       {"keepalives_idle", "10"},
                                                       {"keepalives_interval", "5"},
                                                       {"keepalives_count", "3"},
                                                       {"tcp_user_timeout", "15000"}};
  options.insert(defaults.begin(), defaults.end());
  options["client_encoding"] = "UTF8";
  out.hosts.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    PostgresAddress::Parameters& host = out.hosts.emplace_back(options.begin(), options.end());
    const auto add = [&](const char* name, const std::vector<std::string>& values) {
      const std::string& value = values.size() == 1 ? values[0] : values[i];
      if (!value.empty()) host.emplace_back(name, value);
    };
    add("host", hosts);
    add("hostaddr", addresses);
    add("port", ports);
  }
  return out;
}

}  // namespace qamserve
