// The parser alone: whatever comes, and however it is cut into reads, it says the same.
#include "server/http/http_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace qamserve {
namespace {

struct Outcome {
  bool done = false;    // the head
  std::string refusal;  // of the head: status and reason
  std::string head;     // method, path, query, fields
  std::string body;
  bool body_done = false;
  std::string body_error;
  size_t used = 0;  // of the input

  bool operator==(const Outcome&) const = default;
};

void PrintTo(const Outcome& outcome, std::ostream* out) {
  *out << outcome.done << " \"" << outcome.refusal << "\" \"" << outcome.head << "\" \"" << outcome.body << "\" "
       << outcome.body_done << " \"" << outcome.body_error << "\" " << outcome.used;
}

void DescribeHead(HttpParser& parser, Outcome& outcome) {
  const HttpRequestHead head = parser.TakeRequestHead();
  outcome.head = fmt::format("{} {} ? {} {}", head.method, head.path, head.query, head.keep_alive);
  for (const auto& [name, value] : head.fields) fmt::format_to(std::back_inserter(outcome.head), "|{}={}", name, value);
  EXPECT_TRUE(head.field("Content-Length").empty() || head.field("Transfer-Encoding").empty()) << outcome.head;
}

// Takes what it can of `in`. False: nothing more can come of it.
bool Step(HttpParser& parser, std::string_view in, size_t room, Outcome& outcome) {
  if (!outcome.done) {
    const HttpParser::HeadStep step = parser.TakeHead(in.substr(outcome.used));
    outcome.used += step.used;
    if (step.refusal) {
      outcome.refusal = fmt::format("{} {}", step.refusal->status, ReasonOf(step.refusal->error));
      return false;
    }
    outcome.done = step.done;
    if (!step.done) return true;
    DescribeHead(parser, outcome);
  }
  std::string piece(room, '\0');
  while (!parser.body_done() && outcome.used < in.size()) {
    const HttpParser::BodyStep step = parser.TakeBody(in.substr(outcome.used), piece.data(), room);
    outcome.used += step.used;
    outcome.body.append(piece, 0, step.filled);
    if (!step.error.ok()) {
      outcome.body_error = ReasonOf(step.error);
      return false;
    }
    if (step.used == 0) break;
  }
  outcome.body_done = parser.body_done();
  return !outcome.body_done;
}

// `next` gives how many bytes more each read brings.
Outcome Parse(std::string_view input, const std::function<size_t()>& next, size_t room) {
  HttpParser parser{HttpLimits()};
  Outcome outcome;
  size_t there = 0;
  bool goes_on = true;
  while (goes_on && there < input.size()) {
    there = std::min(input.size(), there + next());
    goes_on = Step(parser, input.substr(0, there), room, outcome);
  }
  return outcome;
}

Outcome ParseWhole(std::string_view input) {
  return Parse(
      input, [&] { return input.size(); }, 1 << 16);
}

const std::string_view kSeeds[] = {
    "GET /v1/models?page_size=10 HTTP/1.1\r\nHost: localhost:8080\r\nAccept: */*\r\n\r\n",
    ("\r\nPOST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
     "{\"model\":\"a\"}GET / HTTP/1.1\r\n"),
    ("PUT /v1/uploads/u/files/f HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
     "5\r\nhello\r\n6;name=\"va;lue\"\r\n world\r\n0\r\nTrailer: x\r\n\r\n"),
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HEAD http://example.org/livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost:x\r\nX-Folded: one\r\n two\r\nConnection: close, te\r\n\r\n",
};
const std::string_view kWords[] = {"\r\n",
                                   "\n",
                                   "\r",
                                   "\r\n\r\n",
                                   " ",
                                   ":",
                                   ";",
                                   "Transfer-Encoding: chunked\r\n",
                                   "Content-Length: 5\r\n",
                                   "0\r\n\r\n",
                                   "ffffffffffffffff",
                                   "HTTP/2.0",
                                   "Host: y\r\n",
                                   "\t",
                                   "\"",
                                   "?",
                                   "%00",
                                   "-1",
                                   "Connection: upgrade\r\n"};

std::string Mutate(std::string text, std::mt19937_64& random) {
  const auto below = [&random](size_t n) { return static_cast<size_t>(random() % n); };
  for (size_t changes = 1 + below(3); changes > 0; --changes) {
    const size_t at = below(text.size() + 1);
    switch (below(5)) {
      case 0:
        text.insert(at, kWords[below(std::size(kWords))]);
        break;
      case 1:
        text.erase(at, 1 + below(8));
        break;
      case 2:
        text.insert(at, text.substr(below(text.size() + 1), below(24)));
        break;
      case 3:
        text.insert(at, 1, static_cast<char>(below(256)));
        break;
      default:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
    }
  }
  return text;
}

TEST(HttpParserTest, SeedsAreUnderstood) {
  for (const std::string_view seed : kSeeds) {
    const Outcome outcome = ParseWhole(seed);
    EXPECT_TRUE(outcome.done && outcome.body_done) << seed << testing::PrintToString(outcome);
  }
  const Outcome chunked = ParseWhole(kSeeds[2]);
  EXPECT_EQ(chunked.body, "hello world");
  EXPECT_EQ(chunked.used, kSeeds[2].size());
  EXPECT_EQ(ParseWhole(kSeeds[1]).body, "{\"model\":\"a\"}");
  EXPECT_EQ(ParseWhole(kSeeds[4]).head, "HEAD /livez ?  true|Connection=keep-alive");
  EXPECT_THAT(ParseWhole(kSeeds[5]).head, testing::HasSubstr("X-Folded=one two"));
}

TEST(HttpParserTest, CutsDoNotMatter) {
  std::mt19937_64 random(20261126);
  int understood = 0;
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string input = Mutate(std::string(kSeeds[static_cast<size_t>(i) % std::size(kSeeds)]), random);
    const Outcome whole = ParseWhole(input);
    understood += whole.done ? 1 : 0;
    refused += whole.refusal.empty() ? 0 : 1;
    const Outcome bytes = Parse(
        input, [] { return size_t{1}; }, 1);
    const Outcome pieces = Parse(
        input, [&random] { return 1 + random() % 30; }, 7);
    for (const Outcome& cut : {bytes, pieces}) {
      // A head without an end may be refused at once or once it has ended.
      const bool may_wait = !whole.done && (whole.refusal.empty() || cut.refusal.empty()) && !cut.done;
      if (may_wait) continue;
      // Fewer bytes than a last chunk has are not looked at again before more come.
      const bool waits = cut.done && !cut.body_done && cut.body_error.empty() && input.size() - cut.used < 5;
      if (waits && whole.done && !whole.body_done) continue;
      // What a refused head has used is of no interest.
      Outcome same = cut;
      if (!whole.refusal.empty()) same.used = whole.used;
      ASSERT_EQ(same, whole) << input;
    }
  }
  EXPECT_GT(understood, 2'000) << "the changes are too wild";
  EXPECT_GT(refused, 2'000) << "the changes are too tame";
}

TEST(HttpParserTest, LengthsAreTold) {
  HttpParser parser{HttpLimits()};
  const HttpParser::HeadStep step =
      parser.TakeHead("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000000\r\n\r\nabc");
  ASSERT_TRUE(step.done && !step.refusal);
  EXPECT_EQ(parser.length_left(), 3'000'000'000);
  char to[8];
  EXPECT_EQ(parser.TakeBody("abc", to, sizeof(to)).filled, 3);
  EXPECT_EQ(parser.length_left(), 2'999'999'997);
  EXPECT_FALSE(parser.body_done());
  HttpParser chunked{HttpLimits()};
  EXPECT_TRUE(chunked.TakeHead("POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n").done);
  EXPECT_EQ(chunked.length_left(), std::nullopt);
  HttpParser none{HttpLimits()};
  EXPECT_TRUE(none.TakeHead("GET /x HTTP/1.1\r\nHost: x\r\n\r\n").done);
  EXPECT_EQ(none.length_left(), 0);
}

}  // namespace
}  // namespace qamserve
