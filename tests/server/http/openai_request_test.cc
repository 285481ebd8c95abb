// Bodies of requests: what is read, and how what is wrong is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/http/openai/api_error.h"
#include "server/http/openai/chat_messages.h"
#include "server/http/openai/chat_request.h"
#include "server/http/openai/completion_request.h"

namespace qamserve::openai {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Json Parsed(std::string_view text) {
  absl::StatusOr<Json> json = ParseJsonText(text);
  EXPECT_TRUE(json.ok()) << json.status();
  return json.ok() ? *json : Json();
}

// With the members of `more` beside a model and a message.
Json Chat(std::string_view more = "{}") {
  Json body = Parsed(R"({"model": "m", "messages": [{"role": "user", "content": "hi"}]})");
  body.update(Parsed(more));
  return body;
}

Json Completion(std::string_view more = "{}") {
  Json body = Parsed(R"({"model": "m", "prompt": "hi"})");
  body.update(Parsed(more));
  return body;
}

ChatCompletionRequest ReadChat(std::string_view more) {
  absl::StatusOr<ChatCompletionRequest> request = ReadChatCompletionRequest(Chat(more));
  EXPECT_TRUE(request.ok()) << request.status() << " " << more;
  return request.ok() ? *request : ChatCompletionRequest();
}

CompletionRequest ReadText(std::string_view more) {
  absl::StatusOr<CompletionRequest> request = ReadCompletionRequest(Completion(more));
  EXPECT_TRUE(request.ok()) << request.status() << " " << more;
  return request.ok() ? *request : CompletionRequest();
}

struct Refusal {
  const char* more;
  const char* param;
  const char* reason;
};

void ExpectRefusal(const absl::Status& status, const Refusal& refusal) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << refusal.more;
  EXPECT_EQ(ParamOf(status), refusal.param) << refusal.more << " " << status;
  EXPECT_EQ(ReasonOf(status), refusal.reason) << refusal.more << " " << status;
}

TEST(JsonReaderTest, RefusesWhatIsNotJson) {
  for (const char* text : {"", "{", "{\"a\":1,}", "[1] 2", "nul", "{\"a\": \"\xff\"}", "{\"a\": \"\\ud800\"}",
                           "{\"a\": 1e999}", "{'a': 1}", "\xEF\xBB\xBF"}) {
    EXPECT_EQ(ReasonOf(ParseJsonText(text).status()), "JSON_INVALID") << text;
  }
  EXPECT_THAT(MessageOf(ParseJsonText("{\"a\": tru}").status()), HasSubstr("column 10"));
}

TEST(JsonReaderTest, LimitsDepthSizeAndRefusesDuplicates) {
  const auto nested = [](int levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  EXPECT_TRUE(ParseJsonText(nested(kMaxJsonDepth)).ok());
  EXPECT_EQ(ReasonOf(ParseJsonText(nested(kMaxJsonDepth + 1)).status()), "JSON_LIMIT");
  EXPECT_EQ(ReasonOf(ParseJsonText(std::string(4 << 20, '[')).status()), "JSON_LIMIT");
  std::string many = "[{}";
  for (size_t i = 0; i < kMaxJsonParts; ++i) many += ",{}";
  EXPECT_EQ(ReasonOf(ParseJsonText(many + "]").status()), "JSON_LIMIT");
  std::string members = "{\"a\":0";
  for (size_t i = 0; i < kMaxJsonMembers; ++i) members += fmt::format(",\"{}\":0", i);
  EXPECT_EQ(ReasonOf(ParseJsonText(members + "}").status()), "JSON_LIMIT");
  const absl::Status twice = ParseJsonText(R"({"a": {"b": 1, "c": {"b": 2}, "b": 3}})").status();
  EXPECT_EQ(ReasonOf(twice), "JSON_DUPLICATE");
  EXPECT_EQ(ParamOf(twice), "b");
}

TEST(JsonReaderTest, KeepsWhatIsThere) {
  const char* text = R"({"z":[1,-2,3.5,true,null,"ä\u0000"],"a":{"y":{},"b":[]}})";
  EXPECT_EQ(TextOf(Parsed(text)), text);
}

TEST(RequestTest, ReadsSampling) {
  const ChatCompletionRequest request = ReadChat(R"({
      "temperature": 0, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "presence_penalty": -2,
      "frequency_penalty": 2, "logit_bias": {"5": -100, "70000": 3.5}, "stop": ["a", "b"], "seed": -1, "n": 3,
      "max_completion_tokens": 7.0, "ignore_eos": true, "user": "u", "metadata": {"a": "b"}, "store": true,
      "service_tier": "auto"})");
  const v1::SamplingParams& params = request.params;
  EXPECT_TRUE(params.has_temperature());
  EXPECT_EQ(params.temperature(), 0);
  EXPECT_EQ(params.top_p(), 0.9);
  EXPECT_EQ(params.top_k(), 40);
  EXPECT_EQ(params.min_p(), 0.05);
  EXPECT_EQ(params.repetition_penalty(), 1.1);
  EXPECT_EQ(params.presence_penalty(), -2);
  EXPECT_EQ(params.frequency_penalty(), 2);
  EXPECT_EQ(params.logit_bias().at(5), -100);
  EXPECT_EQ(params.logit_bias().at(70000), 3.5);
  EXPECT_THAT(params.stop(), ElementsAre("a", "b"));
  EXPECT_EQ(params.max_tokens(), 7);
  EXPECT_TRUE(params.ignore_eos());
  EXPECT_EQ(request.n, 3);
  EXPECT_EQ(request.seed, ~uint64_t{0});
  EXPECT_THAT(ReadChat(R"({"stop": "x"})").params.stop(), ElementsAre("x"));
  EXPECT_EQ(ReadChat("{}").params.max_tokens(), kAllTokens) << "as many as fit";
  EXPECT_EQ(ReadText("{}").max_tokens, 16);
}

TEST(RequestTest, NullIsTheSameAsAbsent) {
  const ChatCompletionRequest request = ReadChat(R"({
      "temperature": null, "stop": null, "n": null, "tools": null, "logit_bias": null, "stream_options": null,
      "response_format": null, "seed": null, "max_tokens": null, "functions": null, "tool_choice": null})");
  EXPECT_FALSE(request.params.has_temperature());
  EXPECT_EQ(request.n, 1);
  EXPECT_FALSE(request.seed.has_value());
}

TEST(RequestTest, NamesWhatIsWrongWithAChat) {
  const Refusal refusals[] = {
      {R"({"model": null})", "model", "MISSING_REQUIRED_PARAMETER"},
      {R"({"model": 5})", "model", "INVALID_TYPE"},
      {R"({"model": ""})", "model", "INVALID_VALUE"},
      {R"({"messages": null})", "messages", "MISSING_REQUIRED_PARAMETER"},
      {R"({"messages": []})", "messages", "INVALID_VALUE"},
      {R"({"messages": {}})", "messages", "INVALID_TYPE"},
      {R"({"messages": ["hi"]})", "messages[0]", "INVALID_TYPE"},
      {R"({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": 5}]})", "messages[1].content",
       "INVALID_TYPE"},
      {R"({"messages": [{"content": "a"}]})", "messages[0].role", "MISSING_REQUIRED_PARAMETER"},
      {R"({"messages": [{"role": "pilot", "content": "a"}]})", "messages[0].role", "INVALID_VALUE"},
      {R"({"messages": [{"role": "user"}]})", "messages[0].content", "MISSING_REQUIRED_PARAMETER"},
      {R"({"messages": [{"role": "assistant", "content": null}]})", "messages[0].content",
       "MISSING_REQUIRED_PARAMETER"},
      {R"({"messages": [{"role": "user", "content": "a", "mood": 1}]})", "messages[0].mood", "UNKNOWN_PARAMETER"},
      {R"({"messages": [{"role": "tool", "content": "a"}]})", "messages[0].tool_call_id", "MISSING_REQUIRED_PARAMETER"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]})",
       "messages[0].content[0].type", "UNSUPPORTED_VALUE"},
      {R"({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]})", "messages[0].content[0].text",
       "INVALID_TYPE"},
      {R"({"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function",
           "function": {"name": "f", "arguments": {}}}]}]})",
       "messages[0].tool_calls[0].function.arguments", "INVALID_TYPE"},
      {R"({"max_tokens": 0})", "max_tokens", "INVALID_VALUE"},
      {R"({"max_tokens": 1.5})", "max_tokens", "INVALID_TYPE"},
      {R"({"max_tokens": 1e300})", "max_tokens", "INVALID_VALUE"},
      {R"({"max_tokens": 18446744073709551615})", "max_tokens", "INVALID_VALUE"},
      {R"({"max_tokens": 99999999999})", "max_tokens", "INVALID_VALUE"},
      {R"({"max_tokens": "5"})", "max_tokens", "INVALID_TYPE"},
      {R"({"max_tokens": 5, "max_completion_tokens": 6})", "max_tokens", "INVALID_VALUE"},
      {R"({"n": 0})", "n", "INVALID_VALUE"},
      {R"({"n": 129})", "n", "INVALID_VALUE"},
      {R"({"stream": 1})", "stream", "INVALID_TYPE"},
      {R"({"stream_options": {"include_usage": true}})", "stream_options", "INVALID_VALUE"},
      {R"({"stream": true, "stream_options": {"x": true}})", "stream_options.x", "UNKNOWN_PARAMETER"},
      {R"({"temperature": "hot"})", "temperature", "INVALID_TYPE"},
      {R"({"temperature": 2.1})", "temperature", "INVALID_VALUE"},
      {R"({"stop": 5})", "stop", "INVALID_TYPE"},
      {R"({"stop": ["a", 5]})", "stop[1]", "INVALID_TYPE"},
      {R"({"stop": ["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]})", "stop",
       "INVALID_VALUE"},
      {R"({"logit_bias": {"x": 1}})", "logit_bias.x", "INVALID_VALUE"},
      {R"({"logit_bias": {"1": "a"}})", "logit_bias.1", "INVALID_TYPE"},
      {R"({"top_logprobs": 3})", "top_logprobs", "INVALID_VALUE"},
      {R"({"logprobs": true, "top_logprobs": 21})", "top_logprobs", "INVALID_VALUE"},
      {R"({"logprobs": 3})", "logprobs", "INVALID_TYPE"},
      {R"({"temprature": 1})", "temprature", "UNKNOWN_PARAMETER"},
      {R"({"functions": []})", "functions", "UNSUPPORTED_PARAMETER"},
      {R"({"audio": {}})", "audio", "UNSUPPORTED_PARAMETER"},
      {R"({"modalities": ["text", "audio"]})", "modalities", "UNSUPPORTED_VALUE"},
      {R"({"response_format": {"type": "xml"}})", "response_format.type", "INVALID_VALUE"},
      {R"({"response_format": {"type": "json_schema"}})", "response_format.json_schema", "MISSING_REQUIRED_PARAMETER"},
      {R"({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}})",
       "response_format.json_schema.schema", "MISSING_REQUIRED_PARAMETER"},
      {R"({"response_format": {"type": "json_object"}, "guided_regex": "a"})", "guided_regex", "INVALID_VALUE"},
      {R"({"structured_outputs": {"choice": ["a", 1]}})", "structured_outputs.choice[1]", "INVALID_TYPE"},
      {R"({"structured_outputs": {"xml": 1}})", "structured_outputs.xml", "UNKNOWN_PARAMETER"},
      {R"({"tools": [{"type": "web_search"}]})", "tools[0].type", "UNSUPPORTED_VALUE"},
      {R"({"tools": [{"type": "function", "function": {"name": "a b"}}]})", "tools[0].function.name", "INVALID_VALUE"},
      {R"({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]})",
       "tools[0].function.parameters", "INVALID_TYPE"},
      {R"({"tools": [{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "a"}}]})",
       "tools[1].function.name", "INVALID_VALUE"},
      {R"({"tool_choice": "required"})", "tool_choice", "INVALID_VALUE"},
      {R"({"tool_choice": "sometimes"})", "tool_choice", "INVALID_VALUE"},
      {R"({"tools": [{"type": "function", "function": {"name": "a"}}],
           "tool_choice": {"type": "function", "function": {"name": "b"}}})",
       "tool_choice.function.name", "INVALID_VALUE"},
      {R"({"tools": [{"type": "function", "function": {"name": "a"}}], "response_format": {"type": "json_object"}})",
       "response_format", "INVALID_VALUE"},
      {R"({"continue_final_message": true})", "continue_final_message", "INVALID_VALUE"},
      {R"({"add_generation_prompt": false})", "add_generation_prompt", "INVALID_VALUE"},
      {R"({"chat_template_kwargs": []})", "chat_template_kwargs", "INVALID_TYPE"},
  };
  for (const Refusal& refusal : refusals) {
    ExpectRefusal(ReadChatCompletionRequest(Chat(refusal.more)).status(), refusal);
  }
  ExpectRefusal(ReadChatCompletionRequest(Parsed("[]")).status(), {"[]", "body", "INVALID_TYPE"});
}

TEST(RequestTest, NamesWhatIsWrongWithACompletion) {
  const Refusal refusals[] = {
      {R"({"prompt": null})", "prompt", "MISSING_REQUIRED_PARAMETER"},
      {R"({"prompt": 5})", "prompt", "INVALID_TYPE"},
      {R"({"prompt": []})", "prompt", "INVALID_VALUE"},
      {R"({"prompt": ["a", 5]})", "prompt[1]", "INVALID_TYPE"},
      {R"({"prompt": [1, "a"]})", "prompt[1]", "INVALID_TYPE"},
      {R"({"prompt": [1, -1]})", "prompt[1]", "INVALID_VALUE"},
      {R"({"prompt": [1, 2147483648]})", "prompt[1]", "INVALID_VALUE"},
      {R"({"prompt": [[1, 2], [3, 1.5]]})", "prompt[1][1]", "INVALID_TYPE"},
      {R"({"prompt": [[1], "a"]})", "prompt[1]", "INVALID_TYPE"},
      {R"({"prompt": [{}]})", "prompt[0]", "INVALID_TYPE"},
      {R"({"prompt": ["a", "b"], "n": 65})", "prompt", "INVALID_VALUE"},
      {R"({"best_of": 2})", "best_of", "UNSUPPORTED_PARAMETER"},
      {R"({"max_tokens": 0})", "max_tokens", "INVALID_VALUE"},
      {R"({"max_tokens": -1})", "max_tokens", "INVALID_VALUE"},
      {R"({"logprobs": true})", "logprobs", "INVALID_TYPE"},
      {R"({"logprobs": 21})", "logprobs", "INVALID_VALUE"},
      {R"({"suffix": "end"})", "suffix", "UNSUPPORTED_PARAMETER"},
      {R"({"messages": []})", "messages", "UNKNOWN_PARAMETER"},
  };
  for (const Refusal& refusal : refusals) {
    ExpectRefusal(ReadCompletionRequest(Completion(refusal.more)).status(), refusal);
  }
  Json large = Completion();
  large["prompt"] = std::string(kMaxTextBytes + 1, 'x');
  EXPECT_EQ(ParamOf(ReadCompletionRequest(large).status()), "prompt");
}

TEST(RequestTest, ReadsPrompts) {
  EXPECT_EQ(ReadText(R"({"prompt": ["a", "b"], "n": 2, "best_of": 2, "suffix": ""})").prompts.size(), 2u);
  const CompletionRequest one = ReadText(R"({"prompt": [1, 2]})");
  ASSERT_EQ(one.prompts.size(), 1u);
  EXPECT_TRUE(one.prompts[0].is_tokens);
  EXPECT_THAT(one.prompts[0].tokens, ElementsAre(1, 2));
  const CompletionRequest two = ReadText(R"({"prompt": [[1, 2], [3]], "echo": true, "max_tokens": 0, "logprobs": 0})");
  ASSERT_EQ(two.prompts.size(), 2u);
  EXPECT_THAT(two.prompts[1].tokens, ElementsAre(3));
  EXPECT_EQ(two.logprobs, 0);
}

TEST(RequestTest, ReadsMessages) {
  const ChatCompletionRequest request = ReadChat(R"({"messages": [
      {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "user", "content": "hi", "name": "Ann"},
      {"role": "assistant", "content": null, "refusal": null, "annotations": [],
       "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
      {"role": "tool", "tool_call_id": "c1", "content": "2"}]})");
  const v1::ChatRequest& chat = request.chat;
  ASSERT_EQ(chat.messages_size(), 4);
  EXPECT_EQ(chat.messages(0).role(), "system");
  EXPECT_EQ(chat.messages(0).content(), "a\nb");
  EXPECT_EQ(chat.messages(1).name(), "Ann");
  EXPECT_EQ(chat.messages(2).content(), "");
  EXPECT_EQ(chat.messages(2).tool_calls_json(),
            R"([{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}])");
  EXPECT_EQ(chat.messages(3).tool_call_id(), "c1");
}

TEST(RequestTest, PassesTemplateFieldsOn) {
  const ChatCompletionRequest request = ReadChat(R"({
      "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
      "chat_template_kwargs": {"enable_thinking": false}, "reasoning_effort": "low",
      "continue_final_message": true, "add_generation_prompt": false})");
  EXPECT_EQ(request.chat.template_args_json(), R"({"enable_thinking":false,"reasoning_effort":"low"})");
  EXPECT_TRUE(request.chat.continue_last_message());
}

TEST(RequestTest, ReadsConstraints) {
  EXPECT_FALSE(ReadChat(R"({"response_format": {"type": "text"}})").params.has_constraint());
  EXPECT_TRUE(ReadChat(R"({"response_format": {"type": "json_object"}})").params.constraint().json_object());
  EXPECT_EQ(ReadChat(R"({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true,
                         "description": "d", "schema": {"type": "object", "z": 1, "a": 2}}}})")
                .params.constraint()
                .json_schema(),
            R"({"type":"object","z":1,"a":2})");
  EXPECT_EQ(ReadText(R"({"guided_regex": "a+"})").params.constraint().regex(), "a+");
  EXPECT_EQ(ReadText(R"({"guided_json": "{}"})").params.constraint().json_schema(), "{}");
  EXPECT_EQ(ReadText(R"({"guided_choice": ["a", "b"]})").params.constraint().choice_json(), R"(["a","b"])");
  const CompletionRequest grammar = ReadText(R"({"structured_outputs": {"grammar": "root ::= \"a\""}})");
  EXPECT_EQ(grammar.params.constraint().grammar(), "root ::= \"a\"");
  EXPECT_EQ(grammar.constraint_name, "structured_outputs.grammar");
}

constexpr char kTools[] = R"("tools": [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}},
     "$defs": {"n": {"type": "number"}, "self": {"$ref": "#"}}}}},
    {"type": "function", "function": {"name": "now", "description": "what time it is", "strict": true}}])";

TEST(RequestTest, ReadsTools) {
  const ChatCompletionRequest automatic = ReadChat(fmt::format("{{{}, \"parallel_tool_calls\": false}}", kTools));
  EXPECT_EQ(automatic.tools, ToolMode::kAuto);
  EXPECT_THAT(automatic.tool_names, ElementsAre("add", "now"));
  EXPECT_FALSE(automatic.parallel_tool_calls);
  EXPECT_FALSE(automatic.params.has_constraint());
  EXPECT_THAT(automatic.chat.tools_json(), HasSubstr(R"([{"type":"function","function":{"name":"add",)"));
  const ChatCompletionRequest none = ReadChat(fmt::format("{{{}, \"tool_choice\": \"none\"}}", kTools));
  EXPECT_EQ(none.tools, ToolMode::kNone);
  EXPECT_EQ(none.chat.tools_json(), "") << "what may not be called is not told of";
  const ChatCompletionRequest text =
      ReadChat(fmt::format(R"({{{}, "tool_choice": "none", "response_format": {{"type": "json_object"}}}})", kTools));
  EXPECT_TRUE(text.params.constraint().json_object());
}

TEST(RequestTest, ForcedCallsFollowTheSchemasOfTheTools) {
  const ChatCompletionRequest named =
      ReadChat(fmt::format(R"({{{}, "tool_choice": {{"type": "function", "function": {{"name": "add"}}}}}})", kTools));
  EXPECT_EQ(named.tools, ToolMode::kForced);
  EXPECT_EQ(Parsed(named.params.constraint().json_schema()), Parsed(R"({
      "type": "object",
      "properties": {
        "name": {"const": "add"},
        "arguments": {"type": "object", "properties": {"a": {"$ref": "#/properties/arguments/$defs/n"}},
                      "$defs": {"n": {"type": "number"}, "self": {"$ref": "#/properties/arguments"}}}},
      "required": ["name", "arguments"],
      "additionalProperties": false})"));
  const ChatCompletionRequest any = ReadChat(fmt::format(R"({{{}, "tool_choice": "required"}})", kTools));
  const Json schema = Parsed(any.params.constraint().json_schema());
  ASSERT_EQ(schema["anyOf"].size(), 2u);
  EXPECT_EQ(schema["anyOf"][0]["properties"]["arguments"]["properties"]["a"]["$ref"],
            "#/anyOf/0/properties/arguments/$defs/n");
  EXPECT_EQ(schema["anyOf"][1]["properties"]["arguments"], Parsed(R"({"type": "object"})"));
}

TEST(RequestTest, ReadsEmbeddings) {
  const auto read = [](std::string_view text) { return ReadEmbeddingRequest(Parsed(text)); };
  const auto request = read(R"({"model": "m", "input": ["a", "b"], "encoding_format": "base64", "user": "u"})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(request->base64);
  EXPECT_TRUE(request->normalize);
  EXPECT_EQ(request->inputs.size(), 2u);
  ExpectRefusal(read(R"({"model": "m", "input": "a", "dimensions": 8})").status(),
                {"dimensions", "dimensions", "UNSUPPORTED_PARAMETER"});
  ExpectRefusal(read(R"({"model": "m", "input": "a", "encoding_format": "hex"})").status(),
                {"hex", "encoding_format", "INVALID_VALUE"});
  ExpectRefusal(read(R"({"model": "m"})").status(), {"no input", "input", "MISSING_REQUIRED_PARAMETER"});
}

TEST(RequestTest, SeedsOfChoicesDiffer) {
  EXPECT_EQ(SeedOfChoice(std::nullopt, 3), 0u) << "the service chooses";
  EXPECT_EQ(SeedOfChoice(7, 0), 7u) << "as a request for one choice";
  EXPECT_NE(SeedOfChoice(0, 0), 0u);
  EXPECT_NE(SeedOfChoice(7, 1), SeedOfChoice(7, 2));
  EXPECT_NE(SeedOfChoice(7, 1), SeedOfChoice(8, 1));
  EXPECT_EQ(SeedOfChoice(7, 1), SeedOfChoice(7, 1));
}

TEST(ApiErrorTest, IsMadeOfAStatus) {
  const ApiError field = ToApiError(FieldError("INVALID_TYPE", "messages[1].content", "bad"));
  EXPECT_EQ(TextOf(ToJson(field)), R"({"error":{"message":"bad","type":"invalid_request_error",)"
                                   R"("param":"messages[1].content","code":"invalid_type"}})");
  EXPECT_EQ(field.status, 400);
  EXPECT_EQ(ToApiError(ResourceExhausted("HTTP_BODY_SIZE", "x")).status, 413);
  EXPECT_EQ(ToApiError(MakeError(absl::StatusCode::kDeadlineExceeded, "HTTP_SLOW", "x")).status, 408);
}

}  // namespace
}  // namespace qamserve::openai
