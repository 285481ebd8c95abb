#include "server/http/openai/completion_request.h"

#include <utility>

namespace qamserve::openai {
namespace {

constexpr size_t kMaxEmbeddingInputs = 2048;  // as OpenAI

Prompt PromptOfText(const Json& text) { return {.text = text.get_ref<const std::string&>()}; }

void AddTokens(const Json& list, const std::string& path, std::vector<Prompt>& prompts, absl::Status& status) {
  Prompt prompt;
  prompt.is_tokens = true;
  prompt.tokens.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const absl::StatusOr<int64_t> token = IntegerOf(list[i], fmt::format("{}[{}]", path, i), 0, INT32_MAX);
    if (!token.ok()) {
      status = token.status();
      return;
    }
    prompt.tokens.push_back(static_cast<int32_t>(*token));
  }
  prompts.push_back(std::move(prompt));
}

// A string, an array of strings, an array of tokens or an array of arrays of tokens.
void ReadPrompts(Members& body, std::string_view name, size_t limit, std::vector<Prompt>& prompts) {
  constexpr std::string_view kWanted = "a string, an array of strings, an array of tokens or an array of such arrays";
  const Json* value = body.Require(name);
  if (value == nullptr) return;
  absl::Status& status = body.status();
  const std::string path = body.PathOf(name);
  if (value->is_string()) {
    prompts.push_back(PromptOfText(*value));
    return;
  }
  if (!value->is_array()) {
    status = TypeError(path, kWanted, *value);
    return;
  }
  if (value->empty()) return body.Fail("INVALID_VALUE", name, fmt::format("'{}' must not be empty.", path));
  if (value->front().is_number()) return AddTokens(*value, path, prompts, status);
  if (value->size() > limit) {
    return body.Fail("INVALID_VALUE", name,
                     fmt::format("'{}' has {} entries; the limit is {}.", path, value->size(), limit));
  }
  const bool texts = value->front().is_string();
  prompts.reserve(value->size());
  for (size_t i = 0; i < value->size() && status.ok(); ++i) {
    const Json& entry = (*value)[i];
    const std::string entry_path = fmt::format("{}[{}]", path, i);
    if (texts && entry.is_string()) {
      prompts.push_back(PromptOfText(entry));
    } else if (!texts && entry.is_array()) {
      AddTokens(entry, entry_path, prompts, status);
    } else {
      status = TypeError(entry_path, texts ? "a string, like the entries before it" : "an array of tokens", entry);
    }
  }
}

void CheckSizes(Members& body, std::string_view name, const std::vector<Prompt>& prompts) {
  for (const Prompt& prompt : prompts) {
    // A token takes at most 5 bytes on its way.
    const size_t bytes = prompt.is_tokens ? prompt.tokens.size() * 5 : prompt.text.size();
    if (bytes <= kMaxTextBytes) continue;
    return body.Fail("STRING_ABOVE_MAX_LENGTH", name,
                     fmt::format("'{}' has an entry of {} bytes; the limit is {}.", name, bytes, kMaxTextBytes));
  }
}

void CheckCompletion(Members& body, const CompletionRequest& request, int64_t best_of) {
  if (best_of >= 0 && best_of != request.n) {
    return body.Fail("UNSUPPORTED_PARAMETER", "best_of",
                     fmt::format("'best_of' must equal 'n' ({}): every answer that is made is returned.", request.n));
  }
  const auto choices = static_cast<int64_t>(request.prompts.size()) * request.n;
  if (choices > kMaxChoices) {
    return body.Fail("INVALID_VALUE", "prompt",
                     fmt::format("{} prompts with n = {} make {} choices; the limit is {}.", request.prompts.size(),
                                 request.n, choices, kMaxChoices));
  }
  if (request.max_tokens == 0 && !request.echo) {
    body.Fail("INVALID_VALUE", "max_tokens", "'max_tokens' may be 0 only with 'echo'.");
  }
}

}  // namespace

absl::StatusOr<CompletionRequest> ReadCompletionRequest(const Json& json) {
  absl::Status status;
  CompletionRequest request;
  Members body(json, "", status);
  ReadRequestFields(body, request);
  ReadPrompts(body, "prompt", kMaxChoices, request.prompts);
  body.Read("max_tokens", request.max_tokens, 0, kAllTokens);
  body.Read("logprobs", request.logprobs, 0, kMaxTopLogprobs);
  body.Read("echo", request.echo);
  int64_t best_of = -1;
  body.Read("best_of", best_of, 1, kMaxChoices);
  std::string suffix;
  if (body.Read("suffix", suffix) && !suffix.empty()) {
    body.Fail("UNSUPPORTED_PARAMETER", "suffix", "Unsupported parameter: 'suffix': text is only made at the end.");
  }
  ConstraintFields constraint;
  ReadConstraint(body, constraint);
  if (!constraint.named.empty()) *request.params.mutable_constraint() = std::move(constraint.constraint);
  request.constraint_name = constraint.named;
  body.RefuseOthers();
  CheckSizes(body, "prompt", request.prompts);
  CheckCompletion(body, request, best_of);
  if (!status.ok()) return status;
  return request;
}

absl::StatusOr<EmbeddingRequest> ReadEmbeddingRequest(const Json& json) {
  absl::Status status;
  EmbeddingRequest request;
  Members body(json, "", status);
  request.model = body.RequireText("model");
  ReadPrompts(body, "input", kMaxEmbeddingInputs, request.inputs);
  std::string format;
  if (body.ReadOneOf("encoding_format", {"float", "base64"}, format)) request.base64 = format == "base64";
  body.Read("normalize", request.normalize);
  body.Refuse("dimensions", "embeddings are mean hidden states and have the model's own size");
  body.Ignore({"user"});
  body.RefuseOthers();
  CheckSizes(body, "input", request.inputs);
  if (!status.ok()) return status;
  return request;
}

}  // namespace qamserve::openai
