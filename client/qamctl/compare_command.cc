#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/sampling.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

struct CompareFlags {
  std::string base;
  std::string other;
  std::string text;
  std::string prompt;
  std::string message;
  std::string system;
  bool tokens = false;
};

void AddMessage(v1::CompareRequest& request, const char* role, const std::string& content) {
  if (content.empty()) return;
  v1::ChatMessage* message = request.add_messages();
  message->set_role(role);
  message->set_content(content);
}

absl::Status Compare(Session& session, const CompareFlags& flags) {
  v1::CompareRequest request;
  request.set_base(ModelName(flags.base));
  request.set_other(ModelName(flags.other));
  request.set_prompt(flags.prompt);
  AddMessage(request, "system", flags.system);
  AddMessage(request, "user", flags.message);
  ASSIGN_OR_RETURN(*request.mutable_text(), TextOrStdin(session, flags.text));
  ASSIGN_OR_RETURN(const v1::CompareResponse response, session.client().Compare(request));
  if (session.json()) return session.PrintJson(response);
  session.Print(fmt::format("mean KL {:.6f} nats over {} tokens, the same likeliest token at {}", response.kl_mean(),
                            response.tokens_size(), Percent(response.top1_agreement(), 1)));
  if (!flags.tokens) return absl::OkStatus();
  Table table({{"TOKEN", Align::kRight},
               {"TEXT"},
               {"KL", Align::kRight},
               {"BASE LOGPROB", Align::kRight},
               {"OTHER LOGPROB", Align::kRight},
               {"OTHER'S LIKELIEST"}});
  for (const v1::TokenComparison& token : response.tokens()) {
    table.Add({std::to_string(token.token()), OnOneLine(token.text()), fmt::format("{:.6f}", token.kl()),
               fmt::format("{:.4f}", token.base_logprob()), fmt::format("{:.4f}", token.other_logprob()),
               fmt::format("{}{}", OnOneLine(token.other_top_text()), token.same_top() ? "" : " (not the base's)")});
  }
  session.terminal().out << table.ToString();
  return absl::OkStatus();
}

}  // namespace

Action BuildCompare(CLI::App& app) {
  auto flags = std::make_shared<CompareFlags>();
  app.add_option("base", flags->base, "The served model that is compared with, or an alias")
      ->required()
      ->type_name("BASE");
  app.add_option("other", flags->other, "The served model that is compared, or an alias")
      ->required()
      ->type_name("OTHER");
  app.add_option("text", flags->text, "The text, at most 1024 tokens; - reads it from standard input")
      ->required()
      ->check(Utf8())
      ->type_name("TEXT|-");
  auto* prompt = app.add_option("--prompt", flags->prompt, "What comes before the text")->check(Utf8());
  prompt->type_name("TEXT");
  app.add_option("--message", flags->message, "What a user said before; the text is the answer")
      ->check(Utf8())
      ->excludes(prompt)
      ->type_name("TEXT");
  app.add_option("--system", flags->system, "System message before that")
      ->check(Utf8())
      ->excludes(prompt)
      ->type_name("TEXT");
  app.add_flag("--tokens", flags->tokens, "Show every token");
  return [flags](Session& session) { return Compare(session, *flags); };
}

}  // namespace qamserve::qamctl
