#include "server/http/console.h"

#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace qamserve {
namespace {

struct ConsoleFile {
  std::string_view path;
  std::string_view type;
  std::string_view digest;  // of the bytes
  std::string_view bytes;
};

// Written by console/embed.cmake.
constexpr ConsoleFile kFiles[] = {
#include "server/http/console_files.inc"
};

// Everything comes from this server; "require-trusted-types-for" makes browsers that know it refuse innerHTML and its
// like, and the one named policy is for the URL of the worker that computes digests.
constexpr std::string_view kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types qamserve-worker";

const ConsoleFile* FindFile(std::string_view path) {
  const auto* found =
      std::find_if(std::begin(kFiles), std::end(kFiles), [path](const ConsoleFile& file) { return file.path == path; });
  return found == std::end(kFiles) ? nullptr : found;
}

// RFC 9110, 13.1.2: a list of tags or "*"; weak ones count like strong ones.
bool Matches(std::string_view if_none_match, std::string_view etag) {
  const auto tags = absl::StrSplit(absl::string_view(if_none_match.data(), if_none_match.size()), ',');
  return std::any_of(tags.begin(), tags.end(), [etag](absl::string_view tag) {
    tag = absl::StripPrefix(absl::StripAsciiWhitespace(tag), "W/");
    return tag == "*" || std::string_view(tag.data(), tag.size()) == etag;
  });
}

HttpAnswerHead HeadOf(int status, std::string_view type) {
  HttpAnswerHead head;
  head.status = status;
  head.fields = {{"Content-Type", std::string(type)},
                 {"Content-Security-Policy", std::string(kPolicy)},
                 {"X-Content-Type-Options", "nosniff"},
                 {"X-Frame-Options", "DENY"},
                 {"Referrer-Policy", "no-referrer"},
                 {"Cross-Origin-Opener-Policy", "same-origin"},
                 {"Cross-Origin-Resource-Policy", "same-origin"}};
  return head;
}

constexpr std::string_view kPlain = "text/plain; charset=utf-8";

void Answer(const std::shared_ptr<HttpExchange>& exchange) {
  const HttpRequestHead& request = exchange->head();
  if (request.method != "GET" && request.method != "HEAD") {
    HttpAnswerHead head = HeadOf(405, kPlain);
    head.fields.emplace_back("Allow", "GET, HEAD");
    return exchange->Respond(std::move(head), "the console can only be read: GET or HEAD\n");
  }
  const ConsoleFile* file = FindFile(request.path);
  if (file == nullptr) {
    return exchange->Respond(HeadOf(404, kPlain), "the console has no such file\n");
  }
  const std::string etag = fmt::format("\"{}\"", file->digest.substr(0, 32));
  const bool unchanged = Matches(request.field("if-none-match"), etag);
  HttpAnswerHead head = HeadOf(unchanged ? 304 : 200, file->type);
  head.fields.emplace_back("ETag", etag);
  head.fields.emplace_back("Cache-Control", "no-cache");
  exchange->Respond(std::move(head), unchanged ? std::string() : std::string(file->bytes));
}

}  // namespace

HttpPart ConsolePart() {
  return {.takes = [](const HttpRequestHead& head) { return head.path == "/" || head.path.starts_with("/console/"); },
          .handle = [](const std::shared_ptr<HttpExchange>& exchange) { Answer(exchange); },
          .name = "console"};
}

}  // namespace qamserve
