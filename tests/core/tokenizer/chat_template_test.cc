#include "core/tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/core/tokenizer/chat_goldens.h"

namespace qamserve {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::string> Render(std::string_view source, const std::vector<ChatMessage>& messages,
                                   const ChatRenderOptions& options = {}) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const ChatTemplate> chat, ChatTemplate::Parse(source, "<s>", "</s>"));
  return chat->Render(messages, options);
}

TEST(ChatTemplateTest, PromptsAreThoseOfPythonJinja2) {
  for (const ChatGolden& golden : ChatGoldens()) {
    SCOPED_TRACE(std::string(golden.name));
    const ChatRenderOptions options{golden.add_generation_prompt, std::string(golden.tools_json)};
    const absl::StatusOr<std::string> prompt = Render(golden.source, golden.messages, options);
    if (golden.prompt.empty()) {
      EXPECT_EQ(ReasonOf(prompt.status()), "CHAT_TEMPLATE_REFUSED");
    } else {
      ASSERT_TRUE(prompt.ok()) << prompt.status();
      EXPECT_EQ(*prompt, golden.prompt);
    }
  }
}

TEST(ChatTemplateTest, RaiseExceptionCarriesItsText) {
  const auto prompt = Render("{{ raise_exception('roles must alternate') }}", {{"user", "x"}});
  EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(prompt.status()), "CHAT_TEMPLATE_REFUSED");
  EXPECT_THAT(MessageOf(prompt.status()), HasSubstr("roles must alternate"));
}

TEST(ChatTemplateTest, BadSyntaxIsRefusedAtParse) {
  for (const char* source : {"{% if x %}", "{{ 'open }}", "{% endfor %}", "{{ (1 }}", "{% for %}{% endfor %}", ""}) {
    const auto chat = ChatTemplate::Parse(source, "", "");
    EXPECT_EQ(ReasonOf(chat.status()), "CHAT_TEMPLATE_INVALID") << source;
  }
}

// The engine's nodes assert this; a template must not end the process.
TEST(ChatTemplateTest, PartsOfTheWrongKindAreRefused) {
  for (const char* source : {"{{ x|5 }}", "{{ x is 5 }}", "{{ 'a'|(b) }}", "{% filter 5 %}{% endfilter %}",
                             "{% call 5 %}{% endcall %}", "{% call x %}{% endcall %}", "{% macro 5() %}{% endmacro %}",
                             "{% for 5 in [1] %}{% endfor %}", "{% set 5 = 1 %}", "{{ x(5=1) }}"}) {
    EXPECT_FALSE(Render(source, {{"user", "x"}}).ok()) << source;
  }
}

TEST(ChatTemplateTest, DeepNestingIsRefusedInsteadOfOverflowingTheStack) {
  const std::string parens = "{{ " + std::string(100000, '(') + "1" + std::string(100000, ')') + " }}";
  EXPECT_EQ(ReasonOf(ChatTemplate::Parse(parens, "", "").status()), "CHAT_TEMPLATE_INVALID");
  std::string blocks;
  for (int i = 0; i < 20000; ++i) blocks += "{% if 1 %}";
  EXPECT_EQ(ReasonOf(ChatTemplate::Parse(blocks, "", "").status()), "CHAT_TEMPLATE_INVALID");
  std::string negations = "{{ ";
  for (int i = 0; i < 100000; ++i) negations += "not ";
  EXPECT_EQ(ReasonOf(ChatTemplate::Parse(negations + "1 }}", "", "").status()), "CHAT_TEMPLATE_INVALID");
  const ChatRenderOptions tools{true, std::string(200000, '[')};
  EXPECT_EQ(ReasonOf(Render("{{ tools }}", {{"user", "x"}}, tools).status()), "CHAT_TEMPLATE_TOOLS");
}

TEST(ChatTemplateTest, EndlessRecursionOfMacrosIsRefused) {
  std::string nested = "{{ f() }}";
  for (int i = 0; i < 60; ++i) nested.insert(0, "{% if 1 %}").append("{% endif %}");
  for (const std::string& source :
       {std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        std::string("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}"),
        std::string("{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}"),
        std::string("{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}"),
        "{% macro f() %}{{ " + std::string(60, '(') + "f()" + std::string(60, ')') + " }}{% endmacro %}{{ f() }}",
        "{% macro f() %}" + nested + "{% endmacro %}{{ f() }}"}) {
    EXPECT_FALSE(Render(source, {}).ok()) << source;
  }
  const char* countdown = "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}";
  EXPECT_EQ(*Render(std::string(countdown) + "{{ f(3) }}|{{ f(2) }}", {}), "3210|210");
  // What was entered is left again: many calls in a row are fine.
  EXPECT_EQ(Render(std::string(countdown) + "{% for i in range(500) %}{{ f(0) }}{% endfor %}", {})->size(), 500u);
}

TEST(ChatTemplateTest, ManyShallowBlocksAreFine) {
  std::string source;
  for (int i = 0; i < 2000; ++i) source += "{% if messages %}a{% elif tools %}b{% else %}c{% endif %}";
  const auto prompt = Render(source, {{"user", "x"}});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->size(), 2000u);
}

TEST(ChatTemplateTest, ToolsMustBeAJsonArray) {
  for (const char* tools : {"{}", "[", "nonsense"}) {
    EXPECT_EQ(ReasonOf(Render("x", {{"user", "x"}}, {true, tools}).status()), "CHAT_TEMPLATE_TOOLS") << tools;
  }
}

TEST(ChatTemplateTest, NowIsTheTimeThatIsGiven) {
  ChatRenderOptions options;
  options.now_seconds = 1735732800;
  EXPECT_EQ(*Render("{{ strftime_now('%d %b %Y') }}", {{"user", "x"}}, options), "01 Jan 2025");
  EXPECT_NE(*Render("{{ strftime_now('%Y') }}", {{"user", "x"}}), "2025");
}

TEST(ChatTemplateTest, AnOversizedPromptIsRefused) {
  const std::string content(1 << 20, 'x');
  const auto prompt = Render("{% for i in range(17) %}{{ messages[0].content }}{% endfor %}", {{"user", content}});
  EXPECT_EQ(prompt.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(prompt.status()), "CHAT_TEMPLATE_BUDGET");
}

// A template comes with an upload; none of these may take the server's memory, its time or its life.
TEST(ChatTemplateTest, HostileTemplatesMeetTheirBudget) {
  const std::string doubled = "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
  const std::string list = "{% set a = [1] %}";
  for (const std::string& source : {
           std::string("{% for i in range(2000000000) %}{% endfor %}"),
           std::string("{{ range(9000000000000000000) }}"),
           std::string("{{ range(-9000000000000000000, 9000000000000000000, 9000000000000000000) }}"),
           std::string("{% for i in range(3000) %}{% for j in range(3000) %}{% endfor %}{% endfor %}"),
           std::string("{{ 'x' * 2000000000 }}"),
           std::string("{{ 9000000000000000000 * 'x' }}"),
           "{% set ns = namespace(x='x') %}" + doubled,
           std::string(
               "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"),
           std::string(
               "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"),
           std::string("{% set ns = namespace(x=[1]) %}{% for i in range(600) %}{% set ns.x = [ns.x] %}{% endfor %}"),
           std::string("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns ~ '' }}"),
           list + "{% set b = a.append(a) %}{{ a }}",
           list + "{{ a|append(a) }}",
           list + "{{ a.append(a.append) }}",
           std::string("{{ 'x\ny'|indent(2000000000) }}"),
           std::string("{% filter indent(2000000000) %}x\ny\n{% endfilter %}"),
           std::string("{% call range(2000000000) %}{% endcall %}"),
           std::string("{{ [1,2]|tojson(indent=2000000000) }}"),
           std::string("{% set s = 'x' * 1000000 %}{{ s.replace('x', s) }}"),
           std::string("{% set s = 'x' * 1000000 %}{{ s.split('x')|length }}"),
           std::string("{% set s = 'x' * 1000000 %}{{ range(1000000)|join(s) }}"),
           std::string("{% set s = '{}' * 1000000 %}{{ s.format(s) }}"),
           std::string("{% set s = 'x' * 1000000 %}{% for i in range(100000) %}{{ s[i] }}{% endfor %}"),
           std::string("{{ 1 is divisibleby 0 }}"),
           std::string("{{ 1 is divisibleby(-1) }}"),
           std::string("{{ [1]|select('divisibleby', 0)|list }}"),
           std::string("{{ ((range(20)|list) + ['5', 'a'])|sort }}"),
       }) {
    const auto prompt = Render(source, {{"user", "x"}});
    EXPECT_EQ(ReasonOf(prompt.status()), "CHAT_TEMPLATE_BUDGET") << source << prompt.status();
  }
}

TEST(ChatTemplateTest, TheBudgetLeavesRoomForLongConversations) {
  std::vector<ChatMessage> messages;
  messages.reserve(1000);
  for (int i = 0; i < 1000; ++i) {
    messages.push_back({i % 2 == 0 ? "user" : "assistant", "<think>a</think>" + std::string(1000, 'x')});
  }
  const char* source =
      "{% set ns = namespace(last=0, seen=[]) %}"
      "{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.last %}{% set ns.last = loop.revindex0 %}"
      "{% endif %}{% endfor %}"
      "{% for m in messages %}{% set c = m.content.split('</think>')[-1].lstrip('\n').replace('y', 'z') %}"
      "{% if messages|length > 3 and (messages[loop.index0].role is string) %}{% set ns.seen = ns.seen + [m.role] %}"
      "{% endif %}{{ '<|' ~ m.role ~ '|>' + c|trim }}{{ (m|tojson(indent=2))|length }}{% endfor %}{{ ns.last }}";
  const auto prompt = Render(source, messages);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_GT(prompt->size(), 1'000'000u);
  EXPECT_TRUE(prompt->ends_with("998"));
}

}  // namespace
}  // namespace qamserve
