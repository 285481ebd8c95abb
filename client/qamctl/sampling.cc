#include "client/qamctl/sampling.h"

#include <absl/strings/numbers.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "client/qamctl/checks.h"
#include "client/qamctl/text.h"
#include "core/base/file.h"

namespace qamserve::qamctl {
namespace {

constexpr size_t kMaxInputBytes = 16 << 20;

// A number option that writes through the setter of a message field.
template <typename T, typename Set>
CLI::Option* AddNumber(CLI::App& app, const char* flag, const char* help, Set set) {
  return app.add_option_function<T>(flag, set, help);
}

void AddLogitBias(CLI::App& app, v1::SamplingParams* params) {
  app.add_option_function<std::vector<std::string>>(
         "--logit-bias",
         [params](const std::vector<std::string>& biases) {
           for (const std::string& bias : biases) {
             const size_t equals = bias.find('=');
             int32_t token = 0;
             double value = 0;
             if (equals == std::string::npos || !absl::SimpleAtoi(bias.substr(0, equals), &token) ||
                 !absl::SimpleAtod(bias.substr(equals + 1), &value) || !(std::abs(value) <= 100) || token < 0) {
               throw CLI::ValidationError("--logit-bias",
                                          fmt::format("{} is not TOKEN=VALUE with a value of -100 to 100", bias));
             }
             (*params->mutable_logit_bias())[token] = value;
           }
         },
         "Add this to a token's logit, -100 to 100; `qamctl tokenize` tells ids; may be given several times")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("TOKEN=VALUE");
}

// The server says what is too long for it; this only keeps a wrong file from being read whole.
constexpr uint64_t kMaxConstraintBytes = 1 << 20;

std::string TextOfFile(const char* flag, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxConstraintBytes);
  const absl::Status status = text.ok() ? CheckUtf8(path, *text) : text.status();
  if (!status.ok()) throw CLI::ValidationError(flag, MessageOf(status));
  return *std::move(text);
}

// What the answer must look like: one of these at most.
void AddConstraintFlags(CLI::App& app, v1::SamplingParams* params) {
  std::vector<CLI::Option*> options;
  options.push_back(app.add_flag_callback(
      "--json-object", [params] { params->mutable_constraint()->set_json_object(true); },
      "The answer is a JSON object"));
  options.push_back(app.add_option_function<std::string>(
                           "--json-schema",
                           [params](const std::string& path) {
                             params->mutable_constraint()->set_json_schema(TextOfFile("--json-schema", path));
                           },
                           "The answer is JSON that satisfies the schema in this file")
                        ->type_name("FILE"));
  options.push_back(app.add_option_function<std::string>(
                           "--regex",
                           [params](const std::string& text) { params->mutable_constraint()->set_regex(text); },
                           "The whole answer matches this regular expression")
                        ->check(Utf8())
                        ->type_name("EXPRESSION"));
  options.push_back(app.add_option_function<std::string>(
                           "--grammar",
                           [params](const std::string& path) {
                             params->mutable_constraint()->set_grammar(TextOfFile("--grammar", path));
                           },
                           "The answer is of the GBNF grammar in this file")
                        ->type_name("FILE"));
  options.push_back(app.add_option_function<std::vector<std::string>>(
                           "--choice",
                           [params](const std::vector<std::string>& choices) {
                             params->mutable_constraint()->set_choice_json(nlohmann::json(choices).dump());
                           },
                           "The answer is one of these texts; may be given several times")
                        ->expected(1)
                        ->check(Utf8())
                        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
                        ->type_name("TEXT"));
  for (CLI::Option* option : options) {
    for (CLI::Option* other : options) {
      if (option != other) option->excludes(other);
    }
  }
}

}  // namespace

void AddSamplingFlags(CLI::App& app, std::shared_ptr<SamplingFlags> flags) {
  v1::SamplingParams* params = &flags->params;
  // The callbacks own `flags`, so that `params` outlives the parse.
  AddNumber<int>(app, "--max-tokens", "Stop after this many tokens (default 256)",
                 [flags, params](int n) { params->set_max_tokens(n); })
      ->check(Positive())
      ->type_name("N");
  app.add_option("--temperature", flags->temperature, "0 takes the likeliest token each time (default 1)")
      ->check(NotNegative())
      ->type_name("T");
  AddNumber<int>(app, "--top-k", "Sample from the K likeliest tokens (default: all)",
                 [params](int k) { params->set_top_k(k); })
      ->check(NotNegative())
      ->type_name("K");
  app.add_option("--top-p", flags->top_p, "Sample from the fewest tokens that have this probability (default 1)")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("P");
  AddNumber<double>(app, "--min-p", "Drop tokens less likely than this share of the likeliest (default 0)",
                    [params](double p) { params->set_min_p(p); })
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("P");
  app.add_option("--repetition-penalty", flags->repetition_penalty, "Above 1 makes tokens seen before less likely")
      ->check(Positive())
      ->type_name("X");
  AddNumber<double>(app, "--presence-penalty", "Above 0 makes tokens less likely that the answer has already",
                    [params](double x) { params->set_presence_penalty(x); })
      ->check(CLI::Range(-2.0, 2.0))
      ->type_name("X");
  AddNumber<double>(app, "--frequency-penalty", "The same, once for each time that the answer has the token",
                    [params](double x) { params->set_frequency_penalty(x); })
      ->check(CLI::Range(-2.0, 2.0))
      ->type_name("X");
  AddLogitBias(app, params);
  AddConstraintFlags(app, params);
  AddNumber<uint64_t>(app, "--seed", "The same seed gives the same text (default: the server chooses)",
                      [params](uint64_t seed) { params->set_seed(seed); })
      ->type_name("N");
  app.add_option_function<std::vector<std::string>>(
         "--stop",
         [params](const std::vector<std::string>& stops) {
           *params->mutable_stop() = {stops.begin(), stops.end()};
         },
         "Stop before this text; may be given up to 16 times")
      ->expected(1)
      ->check(Utf8())
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("TEXT");
  app.add_flag_callback(
      "--ignore-eos", [params] { params->set_ignore_eos(true); }, "Go on past the end of the text");
  AddNumber<int>(app, "--logprobs", "Show the log-probability of each token and of the N best, at most 20",
                 [params](int n) { params->set_logprobs(n); })
      ->check(CLI::Range(0, 20))
      ->type_name("N");
  app.add_option("--priority", flags->priority, "-100 to 100; requests of a higher one go first (default 0)")
      ->check(CLI::Range(-100, 100))
      ->type_name("N");
  app.add_option("--timeout", flags->timeout_seconds, "End after this many seconds, with what was said until then")
      ->check(NotNegative())
      ->type_name("SECONDS");
  app.add_flag("--stats", flags->stats, "Tell model, tokens, speed and seed at the end");
}

v1::SamplingParams ToParams(const SamplingFlags& flags) {
  v1::SamplingParams params = flags.params;
  if (flags.temperature >= 0) params.set_temperature(flags.temperature);
  if (flags.top_p >= 0) params.set_top_p(flags.top_p);
  if (flags.repetition_penalty >= 0) params.set_repetition_penalty(flags.repetition_penalty);
  return params;
}

void StreamPrinter::operator()(const v1::GenerateResponse& response) {
  text_ += response.text();
  if (!response.model().empty()) model_ = response.model();
  if (response.has_usage()) usage_ = response.usage();
  if (response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
    finish_ = WithoutPrefix(v1::FinishReason_Name(response.finish_reason()), "FINISH_REASON_");
  }
  if (session_.json()) {
    const absl::Status status = session_.PrintJson(response);
    if (status_.ok()) status_ = status;
  } else if (listed_ || response.logprobs_size() > 0) {
    listed_ = true;
    PrintLogprobs(response);
  } else {
    // A model may write anything, even what would move the cursor or set a window's title.
    Terminal& terminal = session_.terminal();
    terminal.out << (terminal.out_tty ? Shown(response.text(), true) : response.text()) << std::flush;
  }
}

void StreamPrinter::PrintLogprobs(const v1::GenerateResponse& response) {
  for (const auto& token : response.logprobs()) {
    std::string line = fmt::format("{:>8.4f}  {:>6}  {}", token.logprob(), token.token(), OnOneLine(token.text()));
    for (const auto& other : token.top())
      line += fmt::format("  | {} {:.4f}", OnOneLine(other.text()), other.logprob());
    session_.Print(line);
  }
}

absl::Status StreamPrinter::Finish() {
  if (session_.json()) return status_;
  if (!listed_ && !text_.empty() && !text_.ends_with('\n')) session_.terminal().out << "\n" << std::flush;
  // Of a request that was refused there is nothing to tell.
  if (stats_ && usage_.has_value()) {
    const double decode_seconds = usage_->total_seconds() - usage_->time_to_first_token_seconds();
    const double rate = decode_seconds > 0 ? (usage_->completion_tokens() - 1) / decode_seconds : 0;
    session_.Note(fmt::format("[{}: {} prompt + {} tokens, first after {:.3f} s, {:.1f} tokens/s, {}, seed {}]",
                              LastPart(model_), usage_->prompt_tokens(), usage_->completion_tokens(),
                              usage_->time_to_first_token_seconds(), rate, finish_, usage_->seed()));
  }
  return status_;
}

absl::StatusOr<std::string> TextOrStdin(Session& session, const std::string& argument) {
  if (argument != "-") return argument;
  std::string text(kMaxInputBytes + 1, '\0');
  session.terminal().in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(session.terminal().in.gcount()));
  if (text.size() > kMaxInputBytes) {
    return ResourceExhausted("INPUT_TOO_LARGE", "standard input has more than {} bytes", kMaxInputBytes);
  }
  RETURN_IF_ERROR(CheckUtf8("standard input", text));
  return text;
}

}  // namespace qamserve::qamctl
