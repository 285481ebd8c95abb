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
    ChatRenderOptions options;
    options.add_generation_prompt = golden.add_generation_prompt;
    options.tools_json = golden.tools_json;
    options.template_args_json = golden.args_json;
    options.continue_last_message = golden.goes_on;
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

ChatMessage Calls(std::string calls) { return {.role = "assistant", .tool_calls_json = std::move(calls)}; }

// All of a message, as the template sees it.
constexpr char kAsJson[] = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}";

TEST(ChatTemplateTest, MessagesHaveWhatWasGivenOfThem) {
  const auto prompt = Render(
      kAsJson,
      {{.role = "user", .content = "", .name = "Ann"},
       Calls(
           R"([{"id": "a1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": [1, 2.0], \"y\": null}"}}])"),
       {.role = "assistant", .content = "hm", .tool_calls_json = R"([{"function": {"name": "g", "arguments": {}}}])"},
       {.role = "tool", .content = "7", .name = "f", .tool_call_id = "a1"}});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(*prompt,
            R"({"role": "user", "content": "", "name": "Ann"}
{"role": "assistant", "tool_calls": [{"id": "a1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.0], "y": null}}}]}
{"role": "assistant", "content": "hm", "tool_calls": [{"function": {"name": "g", "arguments": {}}}]}
{"role": "tool", "content": "7", "name": "f", "tool_call_id": "a1"}
)");
}

TEST(ChatTemplateTest, TemplatesThatAddArgumentsOrContentToATextGetTexts) {
  const std::vector<ChatMessage> messages = {{"user", "x"},
                                             Calls(R"([{"function": {"name": "f", "arguments": "{ \"x\" : 1 }"}}])")};
  EXPECT_EQ(*Render("{% for m in messages if m.tool_calls %}{{ '>' + m.tool_calls[0].function.arguments }}{% endfor %}",
                    messages),
            R"(>{ "x" : 1 })");
  EXPECT_EQ(*Render("{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}", messages), "<x><>");
  EXPECT_EQ(*Render("{{ '<' + messages[1].content + messages[1].tool_calls[0].function.arguments }}", messages),
            R"(<{ "x" : 1 })");
  // A template that refuses for its own reasons refuses with that.
  EXPECT_THAT(MessageOf(Render("{{ raise_exception('no ' ~ messages[1].content is defined) }}", messages).status()),
              HasSubstr("no False"));
}

TEST(ChatTemplateTest, ToolCallsThatAreWrongAreNamed) {
  const std::pair<const char*, const char*> bad[] = {
      {"[", "messages[1].tool_calls_json: "},
      {"{}", "messages[1].tool_calls_json: not a JSON array"},
      {"[{}, 5]", "messages[1].tool_calls_json[0]: "},
      {R"([{"function": {"name": "f"}}, {"function": {}}])", "messages[1].tool_calls_json[1]: "},
      {R"([{"function": {"name": 5}}])", "\"name\""},
      {R"([{"function": {"name": "f", "arguments": "{"}}])", "messages[1].tool_calls_json[0].function.arguments: "},
      {R"([{"function": {"name": "f", "arguments": "[]"}}])", "\"arguments\""},
      {R"([{"function": {"name": "f", "arguments": 5}}])", "\"arguments\""},
      {R"([{"function": {"name": "f", "arguments": {"n": 18446744073709551615}}}])", "9223372036854775807"},
  };
  for (const auto& [calls, message] : bad) {
    const absl::Status status = Render("x", {{"user", "x"}, Calls(calls)}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReasonOf(status), "CHAT_MESSAGES") << calls;
    EXPECT_THAT(MessageOf(status), HasSubstr(message)) << calls;
  }
  const auto why = [](ChatMessage message) { return MessageOf(Render("x", {std::move(message)}).status()); };
  EXPECT_THAT(why({.role = "user", .tool_calls_json = "[]"}), HasSubstr("messages[0].tool_calls_json: only"));
  EXPECT_THAT(why(Calls(std::string(70, '[') + std::string(70, ']'))), HasSubstr("nested past 64"));
  EXPECT_THAT(why(Calls("[\"" + std::string(1 << 20, 'x') + "\"]")), HasSubstr("1048576"));
  EXPECT_THAT(why({.role = "user", .name = std::string(1025, 'x')}), HasSubstr("messages[0].name: 1025 bytes"));
  EXPECT_THAT(why({.role = "tool", .tool_call_id = std::string(1025, 'x')}), HasSubstr("messages[0].tool_call_id"));
  EXPECT_THAT(why({.role = std::string(1025, 'x')}), HasSubstr("messages[0].role"));
  // What a parser quotes of its input stays short, and whole characters.
  std::string euros = "[";
  for (int i = 0; i < 1000; ++i) euros += "\u20ac";
  EXPECT_LT(why(Calls(euros)).size(), 400u);
}

TEST(ChatTemplateTest, FurtherVariables) {
  ChatRenderOptions options;
  options.template_args_json = R"({"flag": false, "n": 1.50, "s": {"a": [null]}, "bos_token": "<B>", "documents": []})";
  EXPECT_EQ(
      *Render("{{ bos_token }}{{ eos_token }} {{ flag }} {{ n }} {{ s }} {{ documents is none }} {{ x is defined }}",
              {{"user", "x"}}, options),
      "<B></s> False 1.5 {'a': [None]} False False");
  for (const char* bad :
       {"[]", "{", "5", R"({"messages": []})", R"({"tools": 1})", R"({"add_generation_prompt": true})", R"({"": 1})",
        R"({"a b": 1})", R"({"1a": 1})", R"({"rendering budget": 1})", R"({"enter macro": 1})", R"({"n": -1e999})"}) {
    options.template_args_json = bad;
    const absl::Status status = Render("x", {{"user", "x"}}, options).status();
    EXPECT_EQ(ReasonOf(status), "CHAT_TEMPLATE_ARGS") << bad;
    EXPECT_THAT(MessageOf(status), HasSubstr("template_args_json: ")) << bad;
  }
  std::string many = "{\"a\": 1";
  for (int i = 0; i < 64; ++i) many += fmt::format(", \"a{}\": 1", i);
  options.template_args_json = many + "}";
  EXPECT_EQ(ReasonOf(Render("x", {{"user", "x"}}, options).status()), "CHAT_TEMPLATE_ARGS");
  // What templates call may be replaced by what cannot be called; that ends the rendering and no more.
  options.template_args_json = R"({"range": 1, "namespace": "x", "raise_exception": null})";
  EXPECT_EQ(ReasonOf(Render("{{ range(3) }}", {{"user", "x"}}, options).status()), "CHAT_TEMPLATE_REFUSED");
}

constexpr char kChatMl[] =
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}";

TEST(ChatTemplateTest, TheLastMessageGoesOn) {
  ChatRenderOptions options;
  options.continue_last_message = true;
  const auto go_on = [&](std::string_view source, std::string said) {
    return Render(source, {{"user", "x"}, {"assistant", std::move(said)}}, options);
  };
  EXPECT_EQ(*go_on(kChatMl, "It is"), "<|user|>x<|end|>\n<|assistant|>It is");
  EXPECT_EQ(*go_on(kChatMl, "It is \n"), "<|user|>x<|end|>\n<|assistant|>It is \n");
  EXPECT_EQ(*go_on(kChatMl, ""), "<|user|>x<|end|>\n<|assistant|>");
  // A template that trims: so is what goes on.
  EXPECT_EQ(*go_on("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}", " It is \u3000"), "[x][It is");
  // The text may stand there before.
  EXPECT_EQ(*Render(kChatMl, {{"user", "It is"}, {"assistant", "It is"}}, options),
            "<|user|>It is<|end|>\n<|assistant|>It is");

  EXPECT_EQ(ReasonOf(go_on("{{ messages[0].content }}", "It is").status()), "CHAT_CONTINUE");
  EXPECT_EQ(ReasonOf(go_on("{{ messages[1].content | upper }}", "It is").status()), "CHAT_CONTINUE");
  EXPECT_EQ(ReasonOf(Render(kChatMl, {{"user", "x"}}, options).status()), "CHAT_CONTINUE");
  EXPECT_EQ(ReasonOf(Render(kChatMl, {}, options).status()), "CHAT_CONTINUE");
  EXPECT_EQ(ReasonOf(Render(kChatMl, {Calls("[]")}, options).status()), "CHAT_CONTINUE");
}

// Each expected text is what Python 3.11 prints.
TEST(ChatTemplateTest, ValuesAreThoseOfPython) {
  ChatRenderOptions options;
  options.template_args_json =
      R"({"f": [0.1, 1.0, -0.0, 1e22, 1e-7, 123456.789, 1e16, 9999999999999998.0, 0.0001, 5e-324],
          "t": ["it's", "\"q\"", "it's \"q\"", "a\nb\\c\u0007\u00a0\u200b\ue000", "\u6771\u4eac", true, null],
          "d": {"b": 1, "a": {}}, "none": null})";
  const auto render = [&](std::string_view source) {
    const auto text = Render(source, {{"user", "x"}}, options);
    return text.ok() ? *text : MessageOf(text.status());
  };
  EXPECT_EQ(render("{{ f }}"), "[0.1, 1.0, -0.0, 1e+22, 1e-07, 123456.789, 1e+16, 9999999999999998.0, 0.0001, 5e-324]");
  EXPECT_EQ(render("{{ f | tojson }}"),
            "[0.1, 1.0, -0.0, 1e+22, 1e-07, 123456.789, 1e+16, 9999999999999998.0, 0.0001, 5e-324]");
  EXPECT_EQ(render("{{ f[4] }} {{ f[1] ~ '' }} {{ f[3] | string }}"), "1e-07 1.0 1e+22");
  EXPECT_EQ(render("{{ t }}"), R"(["it's", '"q"', 'it\'s "q"', 'a\nb\\c\x07\xa0\u200b\ue000', ')"
                               "\u6771\u4eac"
                               R"(', True, None])");
  EXPECT_EQ(render("{{ d }} {{ d ~ 'x' }} {{ none }} {{ none ~ 'x' }} {{ x }}|{{ (1, 2) }} {{ [] }} {{ {} }}"),
            "{'b': 1, 'a': {}} {'b': 1, 'a': {}}x None Nonex |(1, 2) [] {}");
  EXPECT_EQ(render("{{ d | tojson(indent=2) }}"), "{\n  \"b\": 1,\n  \"a\": {}\n}");
  EXPECT_EQ(render("{{ d | tojson(sort_keys=true) }}{{ d | tojson(separators=(',', ':')) }}"),
            R"({"a": {}, "b": 1}{"b":1,"a":{}})");
  EXPECT_EQ(render("{{ t[4] | tojson(ensure_ascii=true) }}{{ '\U0001f44d<&>' | tojson(ensure_ascii=true) }}"),
            R"("\u6771\u4eac""\ud83d\udc4d<&>")");
  EXPECT_THAT(render("{{ 'a' + 1 }}"), HasSubstr("cannot be added"));
  EXPECT_THAT(render("{{ 'a' + absent }}"), HasSubstr("cannot be added"));
  EXPECT_THAT(render("{{ absent | tojson }}"), HasSubstr("undefined"));
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
