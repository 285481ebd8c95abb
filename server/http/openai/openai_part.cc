#include "server/http/openai/openai_part.h"

#include <absl/strings/match.h>
#include <absl/time/clock.h>

#include <array>
#include <memory>
#include <random>
#include <utility>

#include "server/http/openai/chat_endpoint.h"
#include "server/http/openai/completion_endpoint.h"
#include "server/http/openai/embedding_endpoint.h"
#include "server/http/openai/models_endpoint.h"
#include "server/http/openai/session.h"
#include "server/http/percent.h"

namespace qamserve {
namespace openai {
namespace {

constexpr std::string_view kModels = "/v1/models";
constexpr std::string_view kModelPrefix = "/v1/models/";
// Read on the I/O thread that it came on: less than a millisecond.
constexpr size_t kQuickBodyBytes = 64 << 10;

using PostAnswer = void (*)(const std::shared_ptr<Session>&, const Json&);
struct PostRoute {
  std::string_view path;
  PostAnswer answer;
};
constexpr std::array<PostRoute, 3> kPosts = {{
    {"/v1/completions", &AnswerCompletion},
    {"/v1/chat/completions", &AnswerChat},
    {"/v1/embeddings", &AnswerEmbeddings},
}};

PostAnswer PostAnswerOf(std::string_view path) {
  for (const PostRoute& route : kPosts) {
    if (route.path == path) return route.answer;
  }
  return nullptr;
}

bool IsModels(std::string_view path) { return path == kModels || path.starts_with(kModelPrefix); }

std::string RandomId() {
  constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  std::random_device device;
  std::uniform_int_distribution<size_t> pick(0, kDigits.size() - 1);
  std::string id(24, '0');
  for (char& c : id) c = kDigits[pick(device)];
  return id;
}

OpenAiOptions WithDefaults(OpenAiOptions options) {
  if (!options.fingerprint) options.fingerprint = [](std::string_view) { return std::string(); };
  if (!options.unix_seconds) options.unix_seconds = [] { return absl::ToUnixSeconds(absl::Now()); };
  if (!options.new_id) options.new_id = RandomId;
  return options;
}

// A page in a browser can send other types across origins without asking first, so no other is read as JSON.
bool IsJson(std::string_view content_type) {
  std::string_view type = content_type.substr(0, content_type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  return absl::EqualsIgnoreCase(absl::string_view(type.data(), type.size()), "application/json");
}

void RefuseMethod(HttpExchange& exchange, std::string_view allowed) {
  const ApiError error = ToApiError(InvalidArgument("METHOD", "{} is not allowed; {} takes {}.", exchange.head().method,
                                                    exchange.head().path, allowed));
  HttpAnswerHead head = HeadOf(error);
  head.fields.emplace_back("Allow", allowed);
  exchange.Respond(std::move(head), TextOf(ToJson(error)));
}

void AnswerBody(const std::shared_ptr<Session>& session, PostAnswer answer, const std::string& body) {
  const absl::StatusOr<Json> json = ParseJsonText(body);
  if (!json.ok()) return session->RespondError(ToApiError(json.status()));
  answer(session, *json);
}

void AnswerPost(const std::shared_ptr<Session>& session, PostAnswer answer) {
  const HttpRequestHead& head = session->exchange()->head();
  const std::string_view type = head.field("content-type");
  if (!IsJson(type)) {
    return session->RespondError(ToApiError(
        InvalidArgument("CONTENT_TYPE", "Content-Type must be application/json; got '{}'.", type.substr(0, 100))));
  }
  ReadBody(session->exchange(), session->options().max_body_bytes, [session, answer](absl::StatusOr<std::string> body) {
    if (!body.ok()) return session->RespondError(ToApiError(body.status()));
    Executor* executor = session->options().executor;
    if (executor == nullptr || body->size() <= kQuickBodyBytes) return AnswerBody(session, answer, *body);
    const absl::Status queued =
        executor->Run([session, answer, body = *std::move(body)] { AnswerBody(session, answer, body); });
    if (!queued.ok()) session->RespondError(ToApiError(queued));
  });
}

void AnswerGet(const std::shared_ptr<Session>& session, std::string_view path) {
  if (path == kModels) return AnswerModels(session);
  const absl::StatusOr<std::string> id = PercentDecode(path.substr(kModelPrefix.size()));
  if (!id.ok()) return session->RespondError(ToApiError(id.status()));
  AnswerModel(session, *id);
}

void Handle(const std::shared_ptr<const Endpoints>& endpoints, const std::shared_ptr<HttpExchange>& exchange) {
  const HttpRequestHead& head = exchange->head();
  const PostAnswer post = PostAnswerOf(head.path);
  if (head.method != (post != nullptr ? "POST" : "GET")) {
    return RefuseMethod(*exchange, post != nullptr ? "POST" : "GET");
  }
  absl::StatusOr<CallMetadata> metadata = CallMetadataOf(head);
  const absl::Status status = metadata.status();
  const auto session =
      std::make_shared<Session>(endpoints, exchange, status.ok() ? *std::move(metadata) : CallMetadata{});
  if (!status.ok()) return session->RespondError(ToApiError(status));
  session->WatchClient();
  post != nullptr ? AnswerPost(session, post) : AnswerGet(session, head.path);
}

}  // namespace
}  // namespace openai

HttpPart OpenAiPart(std::shared_ptr<LocalCalls> calls, OpenAiOptions options) {
  const auto endpoints = std::make_shared<const openai::Endpoints>(
      openai::Endpoints{std::move(calls), openai::WithDefaults(std::move(options))});
  HttpPart part;
  part.name = "openai";
  part.takes = [](const HttpRequestHead& head) {
    return openai::IsModels(head.path) || openai::PostAnswerOf(head.path) != nullptr;
  };
  part.handle = [endpoints](const std::shared_ptr<HttpExchange>& exchange) { openai::Handle(endpoints, exchange); };
  return part;
}

}  // namespace qamserve
