#include "server/telemetry/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace qamserve {
namespace {

using nlohmann::json;

std::vector<json> LinesOf(const std::ostringstream& out) {
  std::vector<json> lines;
  std::istringstream in(out.str());
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST(LogTest, EachLineIsAnObjectThatSaysWhenWhoAndWhat) {
  std::ostringstream out;
  const auto log = Log::CreateOn(out, "info");
  ASSERT_TRUE(log.ok()) << log.status();
  (*log)->SetInstance("0123abcd");
  (*log)->Info("job_state", {{"job", "j1"}, {"state", "RUNNING"}});
  (*log)->Warning("rpc_failed", {{"message", "bad \xff bytes\nand \"quotes\""}});
  (*log)->Debug("not_told");
  (*log)->Error("not_an_object", json::array({1, 2}));
  const std::vector<json> lines = LinesOf(out);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[0]["time"].get<std::string>(), testing::MatchesRegex("....-..-..T..:..:...*Z"));
  EXPECT_EQ(lines[0]["level"], "info");
  EXPECT_EQ(lines[0]["event"], "job_state");
  EXPECT_EQ(lines[0]["instance"], "0123abcd");
  EXPECT_EQ(lines[0]["job"], "j1");
  EXPECT_EQ(lines[1]["level"], "warning");
  EXPECT_EQ(lines[1]["message"], "bad \xEF\xBF\xBD bytes\nand \"quotes\"");
  EXPECT_EQ(lines[2]["event"], "not_an_object");
  EXPECT_EQ(lines[2]["instance"], "0123abcd");
}

TEST(LogTest, DebugSaysWhetherItWrites) {
  std::ostringstream out;
  EXPECT_TRUE((*Log::CreateOn(out, "debug"))->debug());
  EXPECT_FALSE((*Log::CreateOn(out, "info"))->debug());
  EXPECT_FALSE(Log::Silent()->debug());
  EXPECT_EQ(ReasonOf(Log::CreateOn(out, "loud").status()), "LOG_LEVEL");
  EXPECT_EQ(ReasonOf(Log::Create("loud").status()), "LOG_LEVEL");
}

}  // namespace
}  // namespace qamserve
