#include "core/tokenizer/chat_template.h"

#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>

#include <algorithm>
#include <ctime>
#include <exception>
#include <iterator>
#include <memory>
#include <utility>

#include "core/tokenizer/chat_variables.h"
#include "core/tokenizer/template_guard.h"

// This file sees the JSON type of the Jinja engine and must not include nlohmann/json.hpp, whose version differs.

namespace qamserve {
namespace {

constexpr size_t kMaxOutputBytes = size_t{16} << 20;
// The longest published template has 30 KB.
constexpr size_t kMaxSourceBytes = size_t{1} << 20;
// The engine parses and walks by recursion; published templates and tool lists stay below 20. The product of the
// two bounds what a hostile template can take of a thread's stack (8 MB by default).
constexpr int kMaxNesting = 64;
constexpr int kMaxMacroDepth = 24;
// Chains of "not", "-" and "else" inside one expression recurse too.
constexpr size_t kMaxExpressionBytes = 8 * 1024;

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

// Put behind a message that is to go on; what the template prints from there on is cut off. The space shows whether the
// template trims what it prints. Text and rule are those of transformers.
constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";

// Bytes of the space at the end of `text`, as Python's str.rstrip sees it; 0 if there is none.
size_t SpaceAtEnd(std::string_view text) {
  constexpr std::string_view kSpaces[] = {
      "\t",     "\n",     "\v",     "\f",     "\r",     "\x1c",   "\x1d",   "\x1e",   "\x1f",   " ",
      "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
      "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  for (const std::string_view space : kSpaces) {
    if (text.ends_with(space)) return space.size();
  }
  return 0;
}

std::string_view StripEnd(std::string_view text) {
  while (const size_t length = SpaceAtEnd(text)) text.remove_suffix(length);
  return text;
}

// `rendered` up to the end of the message that goes on, whose content is `content`.
absl::StatusOr<std::string> CutAtTag(std::string rendered, std::string_view content) {
  const size_t at = rendered.rfind(StripEnd(kContinueTag));
  // What is trimmed at its begin is found without that, too.
  const size_t begin = content.find_first_not_of(" \t\n\v\f\r");
  const std::string_view said = begin == std::string_view::npos ? "" : StripEnd(content.substr(begin));
  if (at == std::string::npos || rendered.find(said) == std::string::npos) {
    return InvalidArgument("CHAT_CONTINUE",
                           "continue_last_message: the last message does not stand in what the chat template prints");
  }
  const bool keeps_spaces = std::string_view(rendered).substr(at).starts_with(kContinueTag);
  rendered.resize(at);
  if (!keeps_spaces) rendered.resize(StripEnd(rendered).size());
  return rendered;
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
    if (!options.continue_last_message) return RenderWhole(messages, options);
    if (messages.empty() || messages.back().role != "assistant" || !messages.back().tool_calls_json.empty()) {
      return InvalidArgument("CHAT_CONTINUE",
                             "continue_last_message: the last message must be an assistant's, without tool calls");
    }
    std::vector<ChatMessage> tagged = messages;
    tagged.back().content += kContinueTag;
    ASSIGN_OR_RETURN(std::string rendered, RenderWhole(tagged, options));
    return CutAtTag(std::move(rendered), messages.back().content);
  }

 private:
  absl::StatusOr<std::string> RenderWhole(const std::vector<ChatMessage>& messages,
                                          const ChatRenderOptions& options) const {
    const auto budget = std::make_shared<TemplateBudget>();  // of all attempts
    absl::StatusOr<std::string> text = RenderWith({}, messages, options, budget);
    const auto has_calls = [](const ChatMessage& message) { return !message.tool_calls_json.empty(); };
    const bool refused = !text.ok() && ReasonOf(text.status()) == "CHAT_TEMPLATE_REFUSED";
    if (!refused || std::none_of(messages.begin(), messages.end(), has_calls)) return text;
    for (const CallForm form : {CallForm{true, false}, CallForm{false, true}, CallForm{true, true}}) {
      absl::StatusOr<std::string> again = RenderWith(form, messages, options, budget);
      if (again.ok()) return again;
    }
    return text;
  }

  absl::StatusOr<std::string> RenderWith(const CallForm& form, const std::vector<ChatMessage>& messages,
                                         const ChatRenderOptions& options,
                                         const std::shared_ptr<TemplateBudget>& budget) const {
    try {
      ASSIGN_OR_RETURN(common_json variables, ChatVariables(messages, options, form));
      return Execute(variables, options, budget);
    } catch (const std::exception& e) {
      if (!budget->refusal().empty()) {
        return ResourceExhausted("CHAT_TEMPLATE_BUDGET", "chat template: {}", budget->refusal());
      }
      return InvalidArgument("CHAT_TEMPLATE_REFUSED", "chat template: {}", e.what());
    } catch (...) {  // break and continue outside of a loop
      return InvalidArgument("CHAT_TEMPLATE_REFUSED", "chat template: a loop control stands outside of a loop");
    }
  }

  absl::StatusOr<std::string> Execute(common_json& variables, const ChatRenderOptions& options,
                                      std::shared_ptr<TemplateBudget> budget) const {
    // Where a request has variables of these names, they are those of the request.
    if (!variables.contains("bos_token")) variables["bos_token"] = bos_token_;
    if (!variables.contains("eos_token")) variables["eos_token"] = eos_token_;
    jinja::context context(source_);
    if (options.now_seconds) context.current_time = static_cast<std::time_t>(*options.now_seconds);
    jinja::global_from_json(context, variables, /*mark_input=*/false);
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
