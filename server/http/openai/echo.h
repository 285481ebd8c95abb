// What "echo" puts before the choices of a completion: the prompt as text and, if asked for, the log-probability of
// each of its tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/http/openai/completion_request.h"
#include "server/http/openai/session.h"

namespace qamserve::openai {

struct Echo {
  std::string text;
  std::vector<int32_t> tokens;  // of the prompt; empty if nobody needed them
  // Only with logprobs: the first token, which has no probability, and the others.
  std::string first_token;
  TokenLogprobs details;
};

struct EchoOptions {
  int64_t logprobs = -1;      // -1 = none, n = of each token and of the n best (at least one)
  bool count_tokens = false;  // tokens must be filled in
};

// Asks the services, prompt by prompt; `done` gets the name by which the model that answered is called from then on (an
// alias stays with the one that it chose) and an echo for each prompt. An error becomes the session's answer.
void MakeEchoes(std::shared_ptr<Session> session, std::string model, std::vector<Prompt> prompts, EchoOptions options,
                std::function<void(const std::string& model, std::vector<Echo>)> done);

}  // namespace qamserve::openai
