// Parses one request, head and body, out of bytes as they come, with Boost.Beast. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "server/http/http_text.h"

namespace qamserve {

class HttpParser {
 public:
  explicit HttpParser(const HttpLimits& limits);
  ~HttpParser();

  struct HeadStep {
    size_t used = 0;  // bytes of `in`; the rest must come again, with more behind it
    bool done = false;
    std::optional<HttpRefusal> refusal;
  };
  // Until `done` or `refusal`.
  HeadStep TakeHead(std::string_view in);

  // --- Once the head is done ---
  HttpRequestHead TakeRequestHead();  // once; without a peer
  bool http10() const;
  bool expects_continue() const;
  bool body_done() const;
  // Of the body that is still to come; nothing if it is chunked.
  std::optional<uint64_t> length_left() const;

  struct BodyStep {
    size_t used = 0;     // bytes of `in`; the rest must come again
    size_t filled = 0;   // bytes written to `to`
    absl::Status error;  // INVALID_ARGUMENT (HTTP_BODY); the parser is of no use any more
  };
  // Writes at most `room` bytes of the body to `to`. Nothing used and nothing filled: more must come first.
  BodyStep TakeBody(std::string_view in, char* to, size_t room);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qamserve
