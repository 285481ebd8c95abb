#include "core/tokenizer/chat_template.h"

#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>
#include <json.h>

#include <algorithm>
#include <ctime>
#include <exception>
#include <iterator>
#include <memory>
#include <utility>

#include "core/tokenizer/template_guard.h"

// This file sees the JSON type of the Jinja engine and must not include nlohmann/json.hpp, whose version differs.

namespace qamserve {
namespace {

constexpr size_t kMaxOutputBytes = size_t{16} << 20;
// The longest published template has 30 KB.
constexpr size_t kMaxSourceBytes = size_t{1} << 20;
constexpr size_t kMaxToolsBytes = size_t{1} << 20;
// The engine parses and walks by recursion; published templates and tool lists stay below 20. The product of the
// two bounds what a hostile template can take of a thread's stack (8 MB by default).
constexpr int kMaxNesting = 64;
constexpr int kMaxMacroDepth = 24;
// Chains of "not", "-" and "else" inside one expression recurse too.
constexpr size_t kMaxExpressionBytes = 8 * 1024;

// Deepest nesting of brackets outside of double-quoted strings.
int BracketNesting(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\') ++i;
    if (c == '"') quoted = !quoted;
    if (quoted) continue;
    if (c == '[' || c == '{' || c == '(') deepest = std::max(deepest, ++depth);
    if (c == ']' || c == '}' || c == ')') --depth;
  }
  return deepest;
}

// Refuses what would recurse too deep. Blocks nest from an opener to its end; an elif is parsed as a block inside the
// else of its if, so it counts until the endif.
absl::Status CheckNesting(const std::vector<jinja::token>& tokens) {
  using Token = jinja::token;
  constexpr std::string_view kOpeners[] = {"if", "for", "macro", "call", "filter"};
  int brackets = 0;
  std::vector<int> blocks;  // levels that each open block takes
  int levels = 0;
  size_t begin = 0;  // of the expression or statement
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Token& t = tokens[i];
    if (t.t == Token::open_paren || t.t == Token::open_square_bracket || t.t == Token::open_curly_bracket) ++brackets;
    if (t.t == Token::close_paren || t.t == Token::close_square_bracket || t.t == Token::close_curly_bracket)
      --brackets;
    if (t.t == Token::open_statement || t.t == Token::open_expression) begin = t.pos;
    if (t.t == Token::open_statement && i + 1 < tokens.size()) {
      const std::string& word = tokens[i + 1].value;
      if (std::find(std::begin(kOpeners), std::end(kOpeners), word) != std::end(kOpeners)) {
        blocks.push_back(1);
        ++levels;
      } else if (word == "elif" && !blocks.empty()) {
        ++blocks.back();
        ++levels;
      } else if (word.starts_with("end") && word != "endset" && word != "endgeneration" && !blocks.empty()) {
        levels -= blocks.back();
        blocks.pop_back();
      }
    }
    const bool inside = t.t != Token::text && t.t != Token::comment && t.t != Token::eof;
    if (brackets > kMaxNesting || levels > kMaxNesting || (inside && t.pos > begin + kMaxExpressionBytes)) {
      return InvalidArgument(
          "CHAT_TEMPLATE_INVALID",
          "chat template: byte {} is nested past {} levels or in an expression of more than {} bytes", t.pos,
          kMaxNesting, kMaxExpressionBytes);
    }
  }
  return absl::OkStatus();
}

// Macros may call themselves (tool schemas are printed so), and the engine sets no bound. Calls of these two names are
// put at the begin and end of every macro; being no identifiers, templates can neither call nor redefine them.
constexpr const char* kEnterMacro = "enter macro";
constexpr const char* kLeaveMacro = "leave macro";

void AppendCall(const char* name, size_t pos, std::vector<jinja::token>& out) {
  using Token = jinja::token;
  out.insert(out.end(), {{Token::open_expression, "{{", pos},
                         {Token::identifier, name, pos},
                         {Token::open_paren, "(", pos},
                         {Token::close_paren, ")", pos},
                         {Token::close_expression, "}}", pos}});
}

std::vector<jinja::token> GuardMacros(const std::vector<jinja::token>& tokens) {
  using Token = jinja::token;
  std::vector<Token> out;
  bool in_head = false;  // of a macro
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool statement = tokens[i].t == Token::open_statement && i + 1 < tokens.size();
    if (statement && tokens[i + 1].value == "endmacro") AppendCall(kLeaveMacro, tokens[i].pos, out);
    in_head = in_head || (statement && tokens[i + 1].value == "macro");
    out.push_back(tokens[i]);
    if (in_head && tokens[i].t == Token::close_statement) {
      AppendCall(kEnterMacro, tokens[i].pos, out);
      in_head = false;
    }
  }
  return out;
}

// Defines the two calls for one rendering.
void DefineGuards(jinja::context& context) {
  const auto depth = std::make_shared<int>(0);
  const auto nothing = [] { return jinja::mk_val<jinja::value_string>(std::string()); };
  const auto enter = [depth, nothing](const jinja::func_args&) -> jinja::value {
    if (++*depth > kMaxMacroDepth) {
      throw jinja::raised_exception(fmt::format("macros call each other more than {} deep", kMaxMacroDepth));
    }
    return nothing();
  };
  const auto leave = [depth, nothing](const jinja::func_args&) -> jinja::value {
    --*depth;
    return nothing();
  };
  context.set_val(kEnterMacro, jinja::mk_val<jinja::value_func>(kEnterMacro, enter));
  context.set_val(kLeaveMacro, jinja::mk_val<jinja::value_func>(kLeaveMacro, leave));
}

common_json BuildMessages(const std::vector<ChatMessage>& messages) {
  common_json list = common_json::array();
  for (const ChatMessage& message : messages) {
    common_json entry;
    entry["role"] = message.role;
    entry["content"] = message.content;
    list.push_back(entry);
  }
  return list;
}

class JinjaTemplate : public ChatTemplate {
 public:
  JinjaTemplate(jinja::program program, std::string source, std::string bos_token, std::string eos_token)
      : program_(std::move(program)),
        source_(std::move(source)),
        bos_token_(std::move(bos_token)),
        eos_token_(std::move(eos_token)) {}

  absl::StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                                     const ChatRenderOptions& options) const override {
    if (options.tools_json.size() > kMaxToolsBytes || BracketNesting(options.tools_json) > kMaxNesting) {
      return InvalidArgument("CHAT_TEMPLATE_TOOLS", "tools: more than {} bytes or nested past {} levels",
                             kMaxToolsBytes, kMaxNesting);
    }
    const auto budget = std::make_shared<TemplateBudget>();
    try {
      return Execute(messages, options, budget);
    } catch (const common_json_error& e) {
      return InvalidArgument("CHAT_TEMPLATE_TOOLS", "tools: {}", e.what());
    } catch (const std::exception& e) {
      if (!budget->refusal().empty()) {
        return ResourceExhausted("CHAT_TEMPLATE_BUDGET", "chat template: {}", budget->refusal());
      }
      return InvalidArgument("CHAT_TEMPLATE_REFUSED", "chat template: {}", e.what());
    } catch (...) {  // break and continue outside of a loop
      return InvalidArgument("CHAT_TEMPLATE_REFUSED", "chat template: a loop control stands outside of a loop");
    }
  }

 private:
  absl::StatusOr<std::string> Execute(const std::vector<ChatMessage>& messages, const ChatRenderOptions& options,
                                      std::shared_ptr<TemplateBudget> budget) const {
    common_json input;
    input["messages"] = BuildMessages(messages);
    input["bos_token"] = bos_token_;
    input["eos_token"] = eos_token_;
    input["add_generation_prompt"] = options.add_generation_prompt;
    // transformers defines both, as None, when there are none.
    input["tools"] = nullptr;
    input["documents"] = nullptr;
    if (!options.tools_json.empty()) {
      const common_json tools = common_json::parse(options.tools_json);
      if (!tools.is_array()) return InvalidArgument("CHAT_TEMPLATE_TOOLS", "tools: not a JSON array");
      input["tools"] = tools;
    }
    jinja::context context(source_);
    if (options.now_seconds) context.current_time = static_cast<std::time_t>(*options.now_seconds);
    jinja::global_from_json(context, input, /*mark_input=*/false);
    DefineGuards(context);
    GiveBudget(context, std::move(budget));
    jinja::runtime runtime(context);
    const jinja::value results = runtime.execute(program_);
    std::string text = jinja::runtime::gather_string_parts(results)->as_string().str();
    if (text.size() > kMaxOutputBytes) {
      return ResourceExhausted("CHAT_TEMPLATE_BUDGET", "chat template: the prompt has {} bytes; the limit is {}",
                               text.size(), kMaxOutputBytes);
    }
    return text;
  }

  const jinja::program program_;
  const std::string source_;
  const std::string bos_token_;
  const std::string eos_token_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Parse(std::string_view source, std::string bos_token,
                                                                        std::string eos_token) {
  if (source.empty() || source.size() > kMaxSourceBytes) {
    return InvalidArgument("CHAT_TEMPLATE_INVALID", "chat template: {} bytes; 1 to {} are allowed", source.size(),
                           kMaxSourceBytes);
  }
  try {
    jinja::lexer lexer;
    jinja::lexer_result tokens = lexer.tokenize(std::string(source));
    RETURN_IF_ERROR(CheckNesting(tokens.tokens));
    tokens.tokens = GuardMacros(tokens.tokens);
    // The parser notes where a node begins, even if a template ends before it does: there shall be a token.
    tokens.tokens.push_back({jinja::token::text, "", tokens.source.size()});
    jinja::program program = jinja::parse_from_tokens(tokens);
    GuardTemplate(program);
    return std::shared_ptr<const ChatTemplate>(
        std::make_shared<JinjaTemplate>(std::move(program), tokens.source, std::move(bos_token), std::move(eos_token)));
  } catch (const std::exception& e) {
    return InvalidArgument("CHAT_TEMPLATE_INVALID", "chat template: {}", e.what());
  }
}

}  // namespace qamserve
