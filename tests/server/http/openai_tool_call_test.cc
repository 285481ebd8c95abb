// Tool calls in what models say. Each text is read whole and cut at every place, with the same result.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/http/openai/tool_call_parser.h"

namespace qamserve::openai {
namespace {

struct Understood {
  std::string content;
  std::string calls;  // "name(arguments)" one after the other
};

void Append(const SaidPart& part, Understood& out) {
  out.content += part.content;
  for (const ToolCall& call : part.calls) out.calls += fmt::format("{}({})", call.name, call.arguments);
}

Understood Understand(const std::vector<std::string_view>& pieces) {
  ToolCallParser parser({"f", "get_weather"});
  Understood out;
  for (const std::string_view piece : pieces) Append(parser.Add(piece), out);
  Append(parser.Finish(), out);
  return out;
}

void ExpectUnderstood(std::string_view text, const std::string& content, const std::string& calls) {
  const Understood whole = Understand({text});
  EXPECT_EQ(whole.content, content) << text;
  EXPECT_EQ(whole.calls, calls) << text;
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    const Understood cut = Understand({text.substr(0, i), text.substr(i)});
    EXPECT_EQ(cut.content, content) << text << " cut at " << i;
    EXPECT_EQ(cut.calls, calls) << text << " cut at " << i;
    bytes.push_back(text.substr(i, 1));
  }
  const Understood single = Understand(bytes);
  EXPECT_EQ(single.content, content) << text;
  EXPECT_EQ(single.calls, calls) << text;
}

TEST(ToolCallParserTest, PlainTextPasses) {
  for (const char* text :
       {"", "hello", "  hello\n", "a < b [TOOL and <tool", "<tool_calls>", "{", "[1, 2]", "{\"a\": 1}",
        "\n{\"answer\": {\"name\": \"f\", \"arguments\": {}}}", "[", "say {\"name\": \"f\"}"}) {
    ExpectUnderstood(text, text, "");
  }
}

TEST(ToolCallParserTest, Hermes) {
  ExpectUnderstood("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", "", "f({\"a\":1})");
  ExpectUnderstood("Let me see. <tool_call>{\"arguments\": {}, \"name\": \"f\"}</tool_call>", "Let me see. ", "f({})");
  ExpectUnderstood(
      "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_weather\", "
      "\"arguments\": {\"city\": \"Ulm </tool_call> }\\\"\"}}\n</tool_call>\n",
      "", "f({})get_weather({\"city\":\"Ulm </tool_call> }\\\"\"})");
  ExpectUnderstood("<tool_call>{\"name\": \"f\"}", "", "f({})");  // the mark at the end is often forgotten
  ExpectUnderstood("<tool_call>{\"name\": \"f\"}</tool_call> Done.", "Done.", "f({})");
  ExpectUnderstood("<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", "", "f({\"a\": 1})");
}

TEST(ToolCallParserTest, Llama) {
  ExpectUnderstood("{\"name\": \"f\", \"parameters\": {\"a\": [1, {}]}}", "", "f({\"a\":[1,{}]})");
  ExpectUnderstood("\n{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"f\", \"parameters\": {\"b\": 2}}", "",
                   "f({})f({\"b\":2})");
  ExpectUnderstood("<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "", "f({})");
  ExpectUnderstood("{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {}}}", "", "f({})");
}

TEST(ToolCallParserTest, Mistral) {
  ExpectUnderstood("[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"f\", \"arguments\": {\"x\": 1}}]",
                   "", "f({})f({\"x\":1})");
  ExpectUnderstood("[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}]", "", "f({})");
  ExpectUnderstood(" [{\"name\": \"f\", \"arguments\": {}, \"id\": \"abc\"}]", "", "f({})");
}

TEST(ToolCallParserTest, WhatOnlyLooksLikeACallStaysText) {
  for (const char* text : {
           "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>",
           "<tool_call>not json</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": 5}</tool_call>",
           "<tool_call>{\"name\": \"f\", \"argum",
           "<tool_call>",
           "{\"name\": \"Bob\", \"arguments\": {}}",
           "{\"name\": \"f\"}",
           "{\"name\": \"f\", \"parameters\": {",
           "[{\"name\": \"f\", \"arguments\": {}}, 5]",
           "[TOOL_CALLS]",
           "{\"name\": \"f\", \"parameters\": {]}",
       }) {
    ExpectUnderstood(text, text, "");
  }
}

TEST(ToolCallParserTest, HoldsTextOnlyWhileItCouldBeACall) {
  ToolCallParser parser({"f"});
  EXPECT_EQ(parser.Add("Hello").content, "Hello");
  EXPECT_EQ(parser.Add(" <tool").content, " ");
  EXPECT_EQ(parser.Add("box>").content, "<toolbox>");
  ToolCallParser json({"f"});
  EXPECT_EQ(json.Add("{\"").content, "");
  EXPECT_EQ(json.Add("na").content, "");
  EXPECT_EQ(json.Add("tion\": ").content, "{\"nation\": ");
  EXPECT_EQ(json.Add("1}").content, "1}");
}

TEST(ForcedCallTest, IsReadWholeAndCutOff) {
  ToolCall call;
  ASSERT_TRUE(ReadForcedCall(R"({"name": "f", "arguments": {"a": 1}})", &call));
  EXPECT_EQ(call.name, "f");
  EXPECT_EQ(call.arguments, R"({"a":1})");
  ASSERT_TRUE(ReadForcedCall(R"({"name": "f", "arguments": {"a": "x)", &call));
  EXPECT_EQ(call.name, "f");
  EXPECT_EQ(call.arguments, R"({"a": "x)");
  ASSERT_TRUE(ReadForcedCall(R"({"name" : "f" )", &call));
  EXPECT_EQ(call.arguments, "");
  EXPECT_FALSE(ReadForcedCall(R"({"name": "f)", &call));
  EXPECT_FALSE(ReadForcedCall(R"({"na)", &call));
  EXPECT_FALSE(ReadForcedCall("", &call));
}

}  // namespace
}  // namespace qamserve::openai
