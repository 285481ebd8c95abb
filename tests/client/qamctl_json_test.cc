// --json prints JSON and nothing else, on success and on failure, for every command.
#include <nlohmann/json.hpp>

#include "tests/client/qamctl_fixture.h"

namespace qamserve::qamctl {
namespace {

using nlohmann::json;

constexpr const char* kCommands[] = {"upload MODEL",
                                     "upload TEXT --text",
                                     "import dir/model",
                                     "checkpoints",
                                     "checkpoints list",
                                     "checkpoints get large",
                                     "quantize large",
                                     "quantize MODEL --watch",
                                     "quantize large --validate-only",
                                     "quantize large --watch",
                                     "study large",
                                     "study large --watch",
                                     "study table jobs/1",
                                     "watch jobs/1",
                                     "jobs",
                                     "jobs list --state running",
                                     "jobs get jobs/1",
                                     "jobs watch jobs/1",
                                     "jobs cancel first",
                                     "jobs retry jobs/1",
                                     "cancel jobs/1",
                                     "eval small-5.5",
                                     "eval small-5.5 --no-watch",
                                     "eval small-5.5 --validate-only",
                                     "artifacts",
                                     "artifacts get small-5.5",
                                     "artifacts download small-5.5 --output OUT",
                                     "load small-5.5 --name x",
                                     "unload x",
                                     "models",
                                     "alias set prod tiny=95 next=5",
                                     "alias",
                                     "alias list",
                                     "alias show prod",
                                     "alias delete prod",
                                     "generate tiny x --stats",
                                     "chat tiny",
                                     "chat tiny --message x",
                                     "score tiny x",
                                     "score tiny x --top 2",
                                     "embed tiny x y",
                                     "compare tiny other x --tokens",
                                     "tokenize tiny x",
                                     "detokenize tiny 65",
                                     "keys create first --scope admin",
                                     "keys",
                                     "keys list",
                                     "keys get first",
                                     "keys rotate first --grace 1h",
                                     "keys revoke first",
                                     "keys delete first",
                                     "audit",
                                     "whoami",
                                     "system",
                                     "version",
                                     "jobs delete jobs/1",
                                     "artifacts delete small-5.5",
                                     "checkpoints delete large"};

// Each line of `text`; a line that is not JSON fails the test.
std::vector<json> Lines(const std::string& text, const std::string& command) {
  std::vector<json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(json::parse(line, nullptr, /*allow_exceptions=*/false));
    EXPECT_FALSE(lines.back().is_discarded()) << command << ": " << line;
  }
  EXPECT_FALSE(lines.empty()) << command;
  return lines;
}

TEST_F(QamctlTest, EveryCommandPrintsJsonOnly) {
  const std::string model = WriteFile("m.gguf", "weights");
  const std::string text = WriteFile("t.txt", "text");
  v1::Job done;
  done.set_name("jobs/1");
  done.set_state(v1::JOB_STATE_SUCCEEDED);
  done.add_candidates();
  done.add_candidates();
  server_.state().watch = {done};
  server_.state().report.set_json("{\n  \"format\": 1\n}\n");
  stdin_ = "hi\n";
  for (const char* command : kCommands) {
    std::vector<std::string> arguments;
    std::istringstream words(command);
    for (std::string word; words >> word;) {
      arguments.push_back(word == "MODEL" ? model : word == "TEXT" ? text : word == "OUT" ? folder_ / "out" : word);
    }
    arguments.push_back("--json");
    const Result result = Run(arguments);
    EXPECT_EQ(result.code, kExitOk) << command << result.out;
    EXPECT_EQ(result.err, "") << command;
    Lines(result.out, command);
  }
  EXPECT_EQ(Run({"report", "absent", "--json"}).code, kExitNotFound);
}

TEST_F(QamctlTest, ReportPrintsTheRawReport) {
  server_.state().report.set_json("{\n  \"format\": 1\n}\n");
  const Result result = Run({"report", "small-5.5", "--json"});
  EXPECT_EQ(result.out, server_.state().report.json());
  EXPECT_EQ(json::parse(result.out, nullptr, false).value("format", 0), 1);
}

TEST_F(QamctlTest, StreamsPrintAnObjectALine) {
  const std::vector<json> lines = Lines(Run({"generate", "tiny", "x", "--json"}).out, "generate");
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0].value("text", ""), "Hello");
  EXPECT_EQ(lines[3].value("finishReason", ""), "FINISH_REASON_STOP");
}

TEST_F(QamctlTest, ErrorsAreJsonToo) {
  const std::vector<json> absent = Lines(Run({"generate", "absent", "x", "--json"}).out, "generate");
  EXPECT_EQ(absent.back()["error"].value("reason", ""), "MODEL_NOT_FOUND");
  EXPECT_EQ(absent.back()["error"].value("code", ""), "NOT_FOUND");
  const Result usage = Run({"quantize", "--no-such-flag", "--json"});
  EXPECT_EQ(usage.code, kExitUsage);
  EXPECT_EQ(Lines(usage.out, "usage").back()["error"].value("reason", ""), "USAGE");
  EXPECT_EQ(usage.err, "");
  const Result bytes = Run({"upload", folder_ / "\xff.gguf", "--json"});
  EXPECT_EQ(bytes.code, kExitNotFound);
  Lines(bytes.out, "a path that is not UTF-8");
}

TEST_F(QamctlTest, ListsHoldEveryPage) {
  const std::vector<json> lines = Lines(Run({"checkpoints", "--json"}).out, "checkpoints");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["checkpoints"].size(), 3u);
}

}  // namespace
}  // namespace qamserve::qamctl
