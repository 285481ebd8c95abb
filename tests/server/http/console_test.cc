#include "server/http/console.h"

#include <absl/strings/match.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support/fake_exchange.h"

namespace qamserve {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

FakeAnswer Ask(const std::string& path, HttpFields fields = {}, const std::string& method = "GET") {
  HttpRequestHead head;
  head.method = method;
  head.path = path;
  head.fields = std::move(fields);
  const HttpPart part = ConsolePart();
  EXPECT_TRUE(part.takes(head)) << path;
  FakeClient client(head);
  client.SendTo(part.handle);
  return client.Wait();
}

bool Takes(const std::string& path) {
  HttpRequestHead head;
  head.method = "GET";
  head.path = path;
  return ConsolePart().takes(head);
}

// What a file of the console names: links, scripts, images, imports, the worker.
std::set<std::string> PathsIn(const std::string& text) {
  static const std::regex pattern("(?:(?:src|href)=\"|from '|path = ')(/console/|\\./)([A-Za-z0-9_.]+)");
  std::set<std::string> paths;
  for (std::sregex_iterator it(text.begin(), text.end(), pattern); it != std::sregex_iterator(); ++it) {
    paths.insert("/console/" + (*it)[2].str());
  }
  return paths;
}

// All files that can be reached from "/", by path.
std::map<std::string, FakeAnswer> Crawl() {
  std::map<std::string, FakeAnswer> files;
  std::vector<std::string> open = {"/"};
  while (!open.empty()) {
    const std::string path = open.back();
    open.pop_back();
    if (files.contains(path)) continue;
    files[path] = Ask(path);
    const std::set<std::string> paths = PathsIn(files[path].body);
    open.insert(open.end(), paths.begin(), paths.end());
  }
  return files;
}

TEST(ConsoleTest, TakesThePageAndItsFilesOnly) {
  EXPECT_TRUE(Takes("/"));
  EXPECT_TRUE(Takes("/console/main.js"));
  EXPECT_FALSE(Takes("/v1/jobs"));
  EXPECT_FALSE(Takes("/consoles"));
  EXPECT_FALSE(Takes(""));
}

TEST(ConsoleTest, ServesEveryFileThatThePageNames) {
  const std::map<std::string, std::string> types = {{".html", "text/html; charset=utf-8"},
                                                    {".js", "text/javascript; charset=utf-8"},
                                                    {".css", "text/css; charset=utf-8"},
                                                    {".svg", "image/svg+xml"}};
  const std::map<std::string, FakeAnswer> files = Crawl();
  EXPECT_GT(files.size(), 20U);
  for (const auto& [path, answer] : files) {
    EXPECT_EQ(answer.status, 200) << path;
    EXPECT_THAT(answer.body, Not(IsEmpty())) << path;
    const std::string ending = path == "/" ? ".html" : path.substr(path.rfind('.'));
    EXPECT_EQ(std::string(answer.field("content-type")), types.at(ending)) << path;
  }
  EXPECT_TRUE(files.contains("/console/hash_worker.js"));
  EXPECT_TRUE(files.contains("/console/sha256.js"));
}

// The policy forbids these anyway; what needs one would not work, and this says where.
TEST(ConsoleTest, LoadsNothingFromElsewhereAndMakesNoMarkupOutOfText) {
  for (const auto& [path, answer] : Crawl()) {
    std::string text = answer.body;
    const std::string svg = "http://www.w3.org/2000/svg";
    for (size_t at = text.find(svg); at != std::string::npos; at = text.find(svg)) text.erase(at, svg.size());
    std::vector<std::string> words = {"http://",        "https://",  "innerHTML", "outerHTML",    "insertAdjacentHTML",
                                      "document.write", "DOMParser", "eval(",     "new Function", " style="};
    if (path.ends_with(".css")) words = {"http:", "https:", "url(", "@import"};
    for (const std::string& word : words) EXPECT_FALSE(absl::StrContains(text, word)) << path << " has " << word;
    if (path != "/") continue;
    EXPECT_FALSE(std::regex_search(text, std::regex("<script(?![^>]* src=)|\\son[a-z]+="))) << path;
  }
}

TEST(ConsoleTest, AnswersCarryTheirPolicy) {
  for (const char* path : {"/", "/console/main.js", "/console/nothing.js"}) {
    const FakeAnswer answer = Ask(path);
    const std::string policy(answer.field("content-security-policy"));
    EXPECT_THAT(policy, HasSubstr("default-src 'none'")) << path;
    EXPECT_THAT(policy, HasSubstr("script-src 'self';")) << path;
    EXPECT_THAT(policy, HasSubstr("frame-ancestors 'none'")) << path;
    EXPECT_THAT(policy, HasSubstr("require-trusted-types-for 'script'")) << path;
    EXPECT_THAT(policy, Not(HasSubstr("unsafe"))) << path;
    EXPECT_EQ(answer.field("x-content-type-options"), "nosniff") << path;
    EXPECT_EQ(answer.field("referrer-policy"), "no-referrer") << path;
  }
}

TEST(ConsoleTest, FilesThatTheBrowserHasAreNotSentAgain) {
  const FakeAnswer first = Ask("/");
  const std::string etag(first.field("etag"));
  EXPECT_THAT(etag, testing::MatchesRegex("\"[0-9a-f]{32}\""));
  EXPECT_NE(etag, std::string(Ask("/console/main.js").field("etag")));
  EXPECT_EQ(first.field("cache-control"), "no-cache");
  for (const std::string& value : {etag, "W/" + etag, "\"other\", " + etag, std::string("*")}) {
    const FakeAnswer again = Ask("/", {{"If-None-Match", value}});
    EXPECT_EQ(again.status, 304) << value;
    EXPECT_EQ(again.field("etag"), etag) << value;
    EXPECT_EQ(again.body, "") << value;
  }
  EXPECT_EQ(Ask("/", {{"If-None-Match", "\"other\""}}).status, 200);
}

TEST(ConsoleTest, RefusesWhatIsNotThere) {
  EXPECT_EQ(Ask("/console/").status, 404);
  EXPECT_EQ(Ask("/console/index.html").status, 404) << "it is the page at /";
  EXPECT_EQ(Ask("/console/../server.cc").status, 404);
  EXPECT_EQ(Ask("/console/embed.cmake").status, 404);
  EXPECT_EQ(Ask("/console/%6dain.js").status, 404);
  const FakeAnswer post = Ask("/", {}, "POST");
  EXPECT_EQ(post.status, 405);
  EXPECT_EQ(post.field("allow"), "GET, HEAD");
  EXPECT_EQ(Ask("/", {}, "HEAD").status, 200);
}

}  // namespace
}  // namespace qamserve
