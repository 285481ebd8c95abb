// POST /v1/completions, with echo as clients that measure log-likelihoods use it.
#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <thread>

#include "server/http/openai/answer_json.h"
#include "tests/server/http/golden_text.h"
#include "tests/server/http/openai_fixture.h"

namespace qamserve::openai {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kPath[] = "/v1/completions";

class OpenAiCompletionTest : public OpenAiFixture {
 protected:
  OpenAiCompletionTest() {
    // Each token after the first has the log-probability -1, -2, ...; the best one is another, "?".
    inference_.score = [](const v1::ScoreRequest& request, v1::ScoreResponse* response) {
      const auto& ids = request.tokens().ids();
      *response->mutable_tokens() = ids;
      for (int i = 1; i < ids.size(); ++i) {
        response->add_logprobs(-i);
        v1::TokenLogprob* detail = response->add_details();
        detail->set_token(ids[i]);
        detail->set_text(std::string(1, static_cast<char>(ids[i])));
        detail->set_logprob(-i);
        v1::TokenLogprob* best = detail->add_top();
        best->set_text("?");
        best->set_logprob(-0.5);
      }
      return grpc::Status::OK;
    };
  }
};

TEST_F(OpenAiCompletionTest, AnswersWhole) {
  ExpectGolden("completion.json", Post(kPath, R"({"model": "m", "prompt": "hi", "seed": 3})").body);
  const v1::GenerateRequest request = inference_.generates().at(0);
  EXPECT_EQ(request.prompt(), "hi");
  EXPECT_EQ(request.params().max_tokens(), 16);
  EXPECT_EQ(request.params().seed(), 3u);
  EXPECT_FALSE(request.params().ignore_eos());
}

TEST_F(OpenAiCompletionTest, Streams) {
  Says({SaidToken("Hel", -0.5), SaidToken("lo", -0.25), Ended(v1::FINISH_REASON_STOP)});
  ExpectGolden("completion.sse", Post(kPath, R"({"model": "m", "prompt": "hi", "stream": true, "logprobs": 2,
                                               "stream_options": {"include_usage": true}})")
                                     .body);
}

TEST_F(OpenAiCompletionTest, PromptsAndChoicesAreNumbered) {
  inference_.say = [](int, grpc::ServerContext&, ResponseWriter& writer) {
    writer.Write(Said("x"));
    writer.Write(Ended(v1::FINISH_REASON_LENGTH));
    return grpc::Status::OK;
  };
  const Json answer = Parsed(Post(kPath, R"({"model": "m", "prompt": [[1, 2], [3]], "n": 2, "seed": 5})"));
  ASSERT_EQ(answer["choices"].size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(answer["choices"][i]["index"], i);
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 2 * 5) << "each prompt once";
  EXPECT_EQ(answer["usage"]["completion_tokens"], 4 * 2);
  std::map<std::string, std::vector<uint64_t>> seeds;
  for (const v1::GenerateRequest& request : inference_.generates()) {
    seeds[request.prompt_tokens().ShortDebugString()].push_back(request.params().seed());
  }
  ASSERT_EQ(seeds.size(), 2u);
  for (auto& [prompt, of_prompt] : seeds) std::sort(of_prompt.begin(), of_prompt.end());
  EXPECT_EQ(seeds.begin()->second, seeds.rbegin()->second) << "as if each prompt came alone";
}

// What lm-eval's local-completions client sends, and how it reads the answer.
TEST_F(OpenAiCompletionTest, EchoWithLogprobsMeasuresAPrompt) {
  Says({SaidToken("!", -0.5), Ended(v1::FINISH_REASON_LENGTH, 1)});
  const FakeAnswer answer = Post(kPath, R"({"model": "m", "prompt": [[97, 98, 99]], "temperature": 0, "max_tokens": 1,
                                           "logprobs": 1, "seed": 1234, "echo": true})");
  ExpectGolden("completion_echo.json", answer.body);
  const v1::ScoreRequest score = inference_.scores().at(0);
  EXPECT_EQ(score.top(), 1);
  EXPECT_THAT(score.tokens().ids(), ElementsAre(97, 98, 99));
  const v1::GenerateRequest generate = inference_.generates().at(0);
  EXPECT_TRUE(generate.params().ignore_eos()) << "the last token is cut off by position: it must be there";
  EXPECT_THAT(generate.prompt_tokens().ids(), ElementsAre(97, 98, 99));
  EXPECT_EQ(generate.model(), "servedModels/m") << "an alias stays with the model that it chose";
}

TEST_F(OpenAiCompletionTest, EchoOfTextIsTokenizedAsPromptsAre) {
  const Json answer =
      Parsed(Post(kPath, R"({"model": "m", "prompt": ["ab", "c"], "max_tokens": 0, "logprobs": 0, "echo": true})"));
  EXPECT_TRUE(inference_.generates().empty());
  ASSERT_EQ(answer["choices"].size(), 2u);
  EXPECT_EQ(answer["choices"][0]["text"], "ab");
  EXPECT_EQ(TextOf(answer["choices"][0]["logprobs"]),
            R"({"text_offset":[0,1],"token_logprobs":[null,-1.0],"tokens":["a","b"],)"
            R"("top_logprobs":[null,{"b":-1.0}]})");
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(TextOf(answer["choices"][1]["logprobs"]["token_logprobs"]), "[null]") << "one token is not scored";
  EXPECT_EQ(inference_.scores().size(), 1u);
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 0);
  EXPECT_EQ(answer["system_fingerprint"], "fp_0123456789ab");
}

TEST_F(OpenAiCompletionTest, EchoComesFirstInAStream) {
  ExpectGolden("completion_echo.sse",
               Post(kPath, R"({"model": "m", "prompt": "ab", "echo": true, "stream": true, "max_tokens": 5})").body);
  EXPECT_EQ(inference_.generates().at(0).prompt(), "ab");
  const FakeAnswer alone =
      Post(kPath, R"({"model": "m", "prompt": [97], "echo": true, "stream": true, "max_tokens": 0})");
  EXPECT_THAT(alone.body, HasSubstr(R"([{"text":"a","index":0,"logprobs":null,"finish_reason":null}])"));
  EXPECT_THAT(alone.body, HasSubstr(R"([{"text":"","index":0,"logprobs":null,"finish_reason":"length"}])"));
}

TEST_F(OpenAiCompletionTest, ErrorsOfEchoAreErrorsOfTheRequest) {
  inference_.score = [](const v1::ScoreRequest&, v1::ScoreResponse*) {
    return ToGrpcStatus(InvalidArgument("PROMPT_TOKEN", "the prompt has token 98; ids are 0 to 5"));
  };
  const FakeAnswer answer = Post(kPath, R"({"model": "m", "prompt": "ab", "logprobs": 1, "echo": true})");
  EXPECT_EQ(ErrorOf(answer, 400, "prompt_token")["param"], "prompt");
  EXPECT_EQ(ErrorOf(Post(kPath, R"({"model": "m", "prompt": "", "max_tokens": 0, "echo": true})"), 400,
                    "prompt_empty")["param"],
            "prompt");
  EXPECT_EQ(ErrorOf(Post(kPath, R"({"model": "m", "prompt": "a", "logprob": 1})"), 400, "unknown_parameter")["param"],
            "logprob");
}

TEST_F(OpenAiCompletionTest, ClientsThatLeaveDuringAnEchoAreForgotten) {
  std::atomic<bool> asked{false};
  std::atomic<bool> go_on{false};
  std::atomic<bool> left{false};
  inference_.score = [&](const v1::ScoreRequest&, v1::ScoreResponse*) {
    asked = true;
    while (!go_on) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    left = true;
    return grpc::Status::OK;
  };
  FakeClient client(Head("POST", kPath), R"({"model": "m", "prompt": "ab", "logprobs": 1, "echo": true})");
  client.SendTo(part_.handle);
  while (!asked) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  client.Vanish();
  EXPECT_TRUE(client.WaitForRelease()) << "while the service still works";
  go_on = true;
  while (!left) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(inference_.generates().empty());
}

// --- Where tokens begin ---

std::vector<int64_t> OffsetsOf(std::string_view text, const std::vector<std::string>& tokens) {
  TextOffsets offsets;
  offsets.AddText(text);
  std::vector<int64_t> out;
  out.reserve(tokens.size());
  for (const std::string& token : tokens) out.push_back(offsets.Next(token));
  return out;
}

TEST(TextOffsetsTest, CountCharacters) {
  EXPECT_THAT(OffsetsOf("a\xC3\xA4"
                        "b c",
                        {"a", "\xC3\xA4", "b", " c"}),
              ElementsAre(0, 1, 2, 3));
  // A character in two tokens.
  EXPECT_THAT(OffsetsOf("\xE2\x82\xAC!", {"\xE2\x82", "\xAC", "!"}), ElementsAre(0, 1, 1));
}

TEST(TextOffsetsTest, TokensThatAreNotShownTakeNoPlace) {
  EXPECT_THAT(OffsetsOf("Hi there", {"<s>", " Hi", " there"}), ElementsAre(0, 0, 2));
  EXPECT_THAT(OffsetsOf("ab", {"a", "<|im_end|>", "b"}), ElementsAre(0, 1, 1));
  // A byte that could not be read is one character of the text.
  EXPECT_THAT(OffsetsOf("\xEF\xBF\xBD"
                        "b",
                        {"\xFF", "b"}),
              ElementsAre(0, 1));
}

TEST(TextOffsetsTest, TextMayComeAfterItsTokens) {
  TextOffsets offsets;
  EXPECT_EQ(offsets.Next("ab"), 0);
  offsets.AddText("a");
  EXPECT_EQ(offsets.Next("c"), 2);
  offsets.AddText("bcd");
  EXPECT_EQ(offsets.Next("d"), 3);
  EXPECT_EQ(offsets.Next("e"), 4);
}

TEST(TokenTextTest, PartsOfCharactersAreWrittenAsBytes) {
  EXPECT_EQ(TokenTextOf("a\xC3\xA4"), "a\xC3\xA4");
  EXPECT_EQ(TokenTextOf("\xE2\x82"), "bytes:\\xe2\\x82");
  EXPECT_EQ(TokenTextOf("\xED\xA0\x80"), "bytes:\\xed\\xa0\\x80");
}

}  // namespace
}  // namespace qamserve::openai
