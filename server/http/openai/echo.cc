#include "server/http/openai/echo.h"

#include <algorithm>
#include <utility>

namespace qamserve::openai {
namespace {

constexpr std::string_view kTokenize = "qamserve.v1.InferenceService.Tokenize";
constexpr std::string_view kDetokenize = "qamserve.v1.InferenceService.Detokenize";
constexpr std::string_view kScore = "qamserve.v1.InferenceService.Score";

// One step after the other; each keeps this alive.
class EchoMaker : public std::enable_shared_from_this<EchoMaker> {
 public:
  EchoMaker(std::shared_ptr<Session> session, std::string model, std::vector<Prompt> prompts, EchoOptions options,
            std::function<void(const std::string&, std::vector<Echo>)> done)
      : session_(std::move(session)),
        options_(options),
        prompts_(std::move(prompts)),
        done_(std::move(done)),
        model_(std::move(model)) {}

  void Next() {
    while (echoes_.size() < prompts_.size()) {
      const Prompt& prompt = prompts_[echoes_.size()];
      Echo& echo = echoes_.emplace_back();
      if (prompt.is_tokens) {
        echo.tokens = prompt.tokens;
        if (HasTokens()) WriteOut();
        return;
      }
      echo.text = prompt.text;
      if (options_.logprobs >= 0 || options_.count_tokens) return Tokenize();
    }
    done_(model_, std::move(echoes_));
  }

 private:
  bool HasTokens() {
    if (!echoes_.back().tokens.empty()) return true;
    session_->RespondError(ToApiError(FieldError("PROMPT_EMPTY", "prompt", "The prompt has no tokens.")));
    return false;
  }

  void Tokenize() {
    v1::TokenizeRequest request;
    request.set_model(model_);
    request.set_text(echoes_.back().text);
    // As the services read a prompt.
    request.set_add_special(true);
    request.set_parse_special(true);
    session_->Ask<v1::TokenizeResponse>(kTokenize, request, [self = shared_from_this()](const v1::TokenizeResponse& r) {
      self->model_ = r.model();
      self->echoes_.back().tokens.assign(r.tokens().begin(), r.tokens().end());
      if (self->HasTokens()) self->ReadFirst();
    });
  }

  // The text of a prompt that came as tokens.
  void WriteOut() {
    Detokenize(echoes_.back().tokens, /*skip_special=*/true, [self = shared_from_this()](const std::string& text) {
      self->echoes_.back().text = text;
      self->ReadFirst();
    });
  }

  void ReadFirst() {
    if (options_.logprobs < 0) return Next();
    Detokenize({echoes_.back().tokens.front()}, /*skip_special=*/false,
               [self = shared_from_this()](const std::string& text) {
                 self->echoes_.back().first_token = text;
                 self->Score();
               });
  }

  void Score() {
    Echo& echo = echoes_.back();
    if (echo.tokens.size() < 2) return Next();
    v1::ScoreRequest request;
    request.set_model(model_);
    request.mutable_tokens()->mutable_ids()->Add(echo.tokens.begin(), echo.tokens.end());
    request.set_top(static_cast<int32_t>(std::max<int64_t>(1, options_.logprobs)));
    session_->Ask<v1::ScoreResponse>(kScore, request, [self = shared_from_this()](const v1::ScoreResponse& r) {
      self->echoes_.back().details = r.details();
      self->Next();
    });
  }

  void Detokenize(const std::vector<int32_t>& tokens, bool skip_special, std::function<void(const std::string&)> done) {
    v1::DetokenizeRequest request;
    request.set_model(model_);
    request.mutable_tokens()->Add(tokens.begin(), tokens.end());
    request.set_skip_special(skip_special);
    session_->Ask<v1::DetokenizeResponse>(
        kDetokenize, request, [self = shared_from_this(), done = std::move(done)](const v1::DetokenizeResponse& r) {
          self->model_ = r.model();
          done(r.text());
        });
  }

  const std::shared_ptr<Session> session_;
  const EchoOptions options_;
  const std::vector<Prompt> prompts_;
  const std::function<void(const std::string&, std::vector<Echo>)> done_;
  // Of one step at a time.
  std::string model_;
  std::vector<Echo> echoes_;
};

}  // namespace

void MakeEchoes(std::shared_ptr<Session> session, std::string model, std::vector<Prompt> prompts, EchoOptions options,
                std::function<void(const std::string& model, std::vector<Echo>)> done) {
  std::make_shared<EchoMaker>(std::move(session), std::move(model), std::move(prompts), options, std::move(done))
      ->Next();
}

}  // namespace qamserve::openai
