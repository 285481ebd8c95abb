#include "core/tokenizer/conversations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/tiny_tokenizer.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kTwo[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"ho\"}]}\n"
    "\n"
    "{\"id\": 7, \"messages\": [{\"role\": \"user\", \"content\": \"a <|im_end|> b\", \"name\": \"x\"}]}\r\n";

std::shared_ptr<const ChatTemplate> Parse(std::string_view source) {
  return ChatTemplate::Parse(source, "<s>", "</s>").value();
}

std::shared_ptr<const Tokenizer> TinyTokenizer() {
  return Tokenizer::Create({.tokenizer_json = TinyTokenizerJson(MakeTinyVocabulary(300)),
                            .tokenizer_config_json = TinyTokenizerConfigJson(),
                            .chat_template = ""},
                           "tiny")
      .value();
}

TEST(ConversationsTest, AreToldFromPlainTextByTheFirstLine) {
  EXPECT_TRUE(AreConversations(kTwo));
  EXPECT_TRUE(AreConversations("\n \r\n{\"messages\": []}\nnonsense"));
  for (const char* text :
       {"", "\n\n", "plain text", "{not json}", "{\"text\": \"a\"}", "[{\"messages\": []}]", "{\"messages\": 3}",
        "plain\n{\"messages\": []}", "{\"messages\": [],\n\"and\": \"on the next line\"}"}) {
    EXPECT_FALSE(AreConversations(text)) << text;
  }
}

TEST(ConversationsTest, LinesComeWithTheirNumbers) {
  std::vector<std::pair<int64_t, size_t>> seen;
  const auto visit = [&](int64_t line, const std::vector<ChatMessage>& messages) {
    seen.emplace_back(line, messages.size());
    EXPECT_EQ(messages[0].role, "user");
    return absl::OkStatus();
  };
  ASSERT_EQ(ForEachConversation(kTwo, visit), absl::OkStatus());
  EXPECT_THAT(seen, testing::ElementsAre(testing::Pair(1, 2), testing::Pair(3, 1)));
}

TEST(ConversationsTest, ALineThatIsNoneIsNamed) {
  const auto visit = [](int64_t, const std::vector<ChatMessage>&) { return absl::OkStatus(); };
  const std::string good = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n";
  for (const char* bad :
       {"text", "[]", "{\"messages\": []}", "{\"messages\": \"x\"}", "{}", "{\"messages\": [\"x\"]}",
        "{\"messages\": [{\"role\": \"user\"}]}", "{\"messages\": [{\"role\": 1, \"content\": \"x\"}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": null}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"x\"}]}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]"}) {
    const absl::Status status = ForEachConversation(fmt::format("{0}\n{1}\n{0}", good, bad), visit);
    EXPECT_EQ(ReasonOf(status), "CONVERSATION_INVALID") << bad;
    EXPECT_THAT(MessageOf(status), HasSubstr("line 3")) << bad;
  }
}

TEST(ConversationsTest, AreRenderedOneAfterTheOther) {
  const auto tokenizer = TinyTokenizer();
  const auto chat = Parse(TinyChatTemplate());
  const auto tokens = EncodeConversations(kTwo, *chat, *tokenizer, 1000);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokenizer->Decode(*tokens, /*skip_special=*/false),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>\n"
            "<|im_start|>user\na <|im_end|> b<|im_end|>\n");
  EXPECT_EQ(std::count(tokens->begin(), tokens->end(), kTinyImStart), 3) << "special tokens are tokens";
  // No more than asked for, and whole conversations.
  const auto first = EncodeConversations(kTwo, *chat, *tokenizer, 3);
  ASSERT_TRUE(first.ok());
  EXPECT_LT(first->size(), tokens->size());
  EXPECT_TRUE(std::equal(first->begin(), first->end(), tokens->begin()));
  EXPECT_EQ(first->back(), tokens->at(first->size() - 1));
  // What comes later is read all the same.
  EXPECT_EQ(ReasonOf(EncodeConversations(std::string(kTwo) + "x", *chat, *tokenizer, 3).status()),
            "CONVERSATION_INVALID");
}

TEST(ConversationsTest, ATemplateThatRefusesNamesTheLine) {
  const auto chat = Parse("{% if messages[0]['content'] == 'hi' %}x{% else %}{{ raise_exception('no') }}{% endif %}");
  const absl::Status status = EncodeConversations(kTwo, *chat, *TinyTokenizer(), 1000).status();
  EXPECT_EQ(ReasonOf(status), "CHAT_TEMPLATE_REFUSED");
  EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("line 3"), HasSubstr("no")));
}

TEST(ConversationsTest, AUsersTurnBeginsWithAllThatComesBefore) {
  EXPECT_EQ(*UserTurnStart(*Parse(TinyChatTemplate())), "<|im_start|>user\n");
  const char* system =
      "{{ bos_token }}{% if messages[0]['role'] != 'system' %}<sys>be kind</sys>\n{% endif %}"
      "{% for m in messages %}[INST] {{ m['content'] | trim }} [/INST]{% endfor %}";
  EXPECT_EQ(*UserTurnStart(*Parse(system)), "<s><sys>be kind</sys>\n[INST]") << "without the space of the next word";
  EXPECT_EQ(*UserTurnStart(*Parse("{{ strftime_now('%Y') }}|{{ messages[0]['content'] }}")), "2025|")
      << "the same on every day";
}

TEST(ConversationsTest, ATemplateThatCannotBeginATurnIsRefused) {
  for (const char* source : {"{{ messages[0]['content'] }}", " {{ messages[0]['content'] }}", "always the same",
                             "{{ raise_exception('system first') }}", "{{ messages[0]['content'] | upper }}"}) {
    EXPECT_EQ(ReasonOf(UserTurnStart(*Parse(source)).status()), "CHAT_TEMPLATE_REFUSED") << source;
  }
}

TEST(ConversationsTest, TheTemplateIsTheOneOfTheFiles) {
  TokenizerFiles files;
  EXPECT_EQ(*ReadChatTemplate(files), nullptr);
  files.tokenizer_config_json = R"({"chat_template": "from config", "bos_token": "<b>"})";
  EXPECT_EQ(*(*ReadChatTemplate(files))->Render({}, {}), "from config");
  files.chat_template = "{{ bos_token }} from file";
  EXPECT_EQ(*(*ReadChatTemplate(files))->Render({}, {}), "<b> from file");
  files.chat_template = "{% if %}";
  EXPECT_EQ(ReasonOf(ReadChatTemplate(files).status()), "CHAT_TEMPLATE_INVALID");
}

}  // namespace
}  // namespace qamserve
