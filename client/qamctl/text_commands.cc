// score, tokenize, detokenize, version.
#include <cmath>
#include <nlohmann/json.hpp>

#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/sampling.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

struct TextFlags {
  std::string model;
  std::string text;
  bool tokens = false;
  int top = 0;
  bool add_special = false;
  bool parse_special = false;
};

void AddModelAndText(CLI::App& app, TextFlags& flags) {
  app.add_option("model", flags.model, "The served model, or an alias")->required()->type_name("MODEL");
  app.add_option("text", flags.text, "The text; - reads it from standard input")
      ->required()
      ->check(Utf8())
      ->type_name("TEXT|-");
}

// "the -0.3128 | a -2.4012".
std::string BestOf(const v1::TokenLogprob& token) {
  std::string text;
  for (const v1::TokenLogprob& best : token.top()) {
    text += fmt::format("{}{} {:.4f}", text.empty() ? "" : " | ", OnOneLine(best.text()), best.logprob());
  }
  return text;
}

absl::Status Score(Session& session, const TextFlags& flags) {
  v1::ScoreRequest request;
  request.set_model(ModelName(flags.model));
  ASSIGN_OR_RETURN(*request.mutable_text(), TextOrStdin(session, flags.text));
  request.set_top(flags.top);
  ASSIGN_OR_RETURN(const v1::ScoreResponse response, session.client().Score(request));
  if (session.json()) return session.PrintJson(response);
  double total = 0;
  for (const double logprob : response.logprobs()) total += logprob;
  const int scored = response.logprobs_size();
  session.Print(fmt::format("log-probability {:.4f} nats over {} tokens, perplexity {:.4f}", total, scored,
                            scored > 0 ? std::exp(-total / scored) : 0.0));
  if (!flags.tokens && flags.top == 0) return absl::OkStatus();
  std::vector<Table::Column> columns = {
      {"POSITION", Align::kRight}, {"TOKEN", Align::kRight}, {"LOGPROB", Align::kRight}};
  if (flags.top > 0) columns.push_back({"LIKELIEST THERE"});
  Table table(columns);
  for (int i = 0; i < response.tokens_size(); ++i) {
    std::vector<std::string> row = {std::to_string(i), std::to_string(response.tokens(i)),
                                    i > 0 && i <= scored ? fmt::format("{:.4f}", response.logprobs(i - 1)) : "-"};
    if (flags.top > 0) row.push_back(i > 0 && i <= response.details_size() ? BestOf(response.details(i - 1)) : "");
    table.Add(row);
  }
  session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status Tokenize(Session& session, const TextFlags& flags) {
  v1::TokenizeRequest request;
  request.set_model(ModelName(flags.model));
  ASSIGN_OR_RETURN(*request.mutable_text(), TextOrStdin(session, flags.text));
  request.set_add_special(flags.add_special);
  request.set_parse_special(flags.parse_special);
  ASSIGN_OR_RETURN(const v1::TokenizeResponse response, session.client().Tokenize(request));
  if (session.json()) return session.PrintJson(response);
  session.Print(fmt::format("{}", fmt::join(response.tokens(), " ")));
  return absl::OkStatus();
}

}  // namespace

Action BuildScore(CLI::App& app) {
  auto flags = std::make_shared<TextFlags>();
  AddModelAndText(app, *flags);
  app.add_flag("--tokens", flags->tokens, "Show every token");
  app.add_option("--top", flags->top, "Show every token, and the N likeliest in its place, at most 20")
      ->check(CLI::Range(0, 20))
      ->type_name("N");
  return [flags](Session& session) { return Score(session, *flags); };
}

Action BuildTokenize(CLI::App& app) {
  auto flags = std::make_shared<TextFlags>();
  AddModelAndText(app, *flags);
  app.add_flag("--add-special", flags->add_special, "Add the tokens that the model wants around a text");
  app.add_flag("--parse-special", flags->parse_special, "Read the names of special tokens in the text as such");
  return [flags](Session& session) { return Tokenize(session, *flags); };
}

Action BuildDetokenize(CLI::App& app) {
  auto model = std::make_shared<std::string>();
  auto tokens = std::make_shared<std::vector<int>>();
  auto skip_special = std::make_shared<bool>(false);
  app.add_option("model", *model, "The served model, or an alias")->required()->type_name("MODEL");
  app.add_option("tokens", *tokens, "Token ids")->required()->delimiter(',')->type_name("ID...");
  app.add_flag("--skip-special", *skip_special, "Leave special tokens out of the text");
  return [model, tokens, skip_special](Session& session) -> absl::Status {
    v1::DetokenizeRequest request;
    request.set_model(ModelName(*model));
    *request.mutable_tokens() = {tokens->begin(), tokens->end()};
    request.set_skip_special(*skip_special);
    ASSIGN_OR_RETURN(const v1::DetokenizeResponse response, session.client().Detokenize(request));
    if (session.json()) return session.PrintJson(response);
    session.Print(response.text());
    return absl::OkStatus();
  };
}

Action BuildVersion(CLI::App&) {
  return [](Session& session) {
    if (session.json()) {
      session.terminal().out << nlohmann::json{{"version", QAMSERVE_VERSION}, {"api", "qamserve.v1"}}.dump() << "\n";
    } else {
      session.Print("qamctl " QAMSERVE_VERSION ", API qamserve.v1");
    }
    return absl::OkStatus();
  };
}

}  // namespace qamserve::qamctl
