#include "server/http/rest/rest_part.h"

#include <absl/strings/match.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "server/grpc/rpc_server.h"
#include "server/http/rest/binding.h"
#include "server/http/rest/conditions.h"
#include "server/http/rest/docs_page.h"
#include "server/http/rest/download_answer.h"
#include "server/http/rest/errors.h"
#include "server/http/rest/json.h"
#include "server/http/rest/openapi.h"
#include "server/http/rest/stream_answer.h"
#include "server/http/rest/upload_answer.h"
#include "server/http/route_table.h"

namespace qamserve {
namespace rest {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// What is longer is not read on an I/O thread: a megabyte of JSON takes some 20 ms.
constexpr size_t kQuickBodyBytes = size_t{64} << 10;

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

void Respond(HttpExchange& exchange, Answer answer) {
  exchange.Respond(std::move(answer.head), std::move(answer.body));
}

bool IsRead(std::string_view method) { return method == "GET" || method == "HEAD"; }

// 304 if the client has it already. `answer` is what GET gives; a HEAD's body is left away by the server.
void RespondWithETag(HttpExchange& exchange, Answer answer, std::string etag) {
  const bool same = NamesETag(exchange.head().field("If-None-Match"), etag);
  answer.head.fields.emplace_back("ETag", std::move(etag));
  if (same) {
    answer.head.status = 304;
    answer.body.clear();
  }
  Respond(exchange, std::move(answer));
}

// A document that does not change while the process lives.
struct Page {
  std::string content_type;
  std::string body;
  std::string etag;
  std::string policy;  // Content-Security-Policy; empty = none
};

// One request under way, until its call has begun.
struct Request {
  std::shared_ptr<HttpExchange> exchange;
  RouteMatch match;
  CallMetadata metadata;
  MessagePtr message;
};

class Gateway : public std::enable_shared_from_this<Gateway> {
 public:
  Gateway(const RestOptions& options, RouteTable routes) : options_(options), routes_(std::move(routes)) {}

  absl::Status MakePages() {
    ASSIGN_OR_RETURN(openapi_.body, OpenApiDocument(routes_, options_.version));
    openapi_.content_type = "application/json";
    openapi_.etag = ETagOfBytes(openapi_.body);
    docs_ = {"text/html; charset=utf-8", DocsPage(), ETagOfBytes(DocsPage()), DocsPagePolicy()};
    return absl::OkStatus();
  }

  static bool Takes(const HttpRequestHead& head) {
    return absl::StartsWith(Absl(head.path), "/v1/") || head.path == "/openapi.json" || head.path == "/docs";
  }

  void Handle(std::shared_ptr<HttpExchange> exchange) {
    const HttpRequestHead& head = exchange->head();
    if (head.path == "/openapi.json") return ShowPage(*exchange, openapi_);
    if (head.path == "/docs") return ShowPage(*exchange, docs_);
    absl::StatusOr<RouteMatch> match = routes_.Match(head.method, head.path);
    if (!match.ok()) return Respond(*exchange, ErrorAnswer(match.status()));
    if (match->route == nullptr) return RefuseUnrouted(*exchange, match->allowed);
    if (const absl::Status status = Begin(exchange, *std::move(match)); !status.ok()) {
      Respond(*exchange, ErrorAnswer(status));
    }
  }

 private:
  static void ShowPage(HttpExchange& exchange, const Page& page) {
    if (!IsRead(exchange.head().method)) return RefuseUnrouted(exchange, {"GET"});
    Answer answer;
    answer.head.fields = {
        {"Content-Type", page.content_type}, {"Cache-Control", "no-cache"}, {"X-Content-Type-Options", "nosniff"}};
    if (!page.policy.empty()) answer.head.fields.emplace_back("Content-Security-Policy", page.policy);
    answer.body = page.body;
    RespondWithETag(exchange, std::move(answer), page.etag);
  }

  // There is no such path, or it has not this method.
  static void RefuseUnrouted(HttpExchange& exchange, std::vector<std::string> allowed) {
    const HttpRequestHead& head = exchange.head();
    if (allowed.empty()) {
      return Respond(exchange, ErrorAnswer(NotFound("HTTP_PATH", "there is nothing at {}; /docs lists what there is",
                                                    head.path.substr(0, 200))));
    }
    if (std::find(allowed.begin(), allowed.end(), "GET") != allowed.end()) allowed.emplace_back("HEAD");
    allowed.emplace_back("OPTIONS");
    const std::string list = fmt::format("{}", fmt::join(allowed, ", "));
    Answer answer;
    if (head.method == "OPTIONS") {
      answer.head.status = 204;
    } else {
      answer = ErrorAnswer(WithHttpStatus(
          Unimplemented("HTTP_METHOD", "{} has {}, not {}", head.path.substr(0, 200), list, head.method.substr(0, 40)),
          405));
    }
    answer.head.fields.emplace_back("Allow", list);
    Respond(exchange, std::move(answer));
  }

  // A page elsewhere must not make a reader's browser change things here.
  static absl::Status CheckOrigin(const HttpRequestHead& head) {
    if (IsRead(head.method) || !absl::EqualsIgnoreCase(Absl(head.field("Sec-Fetch-Site")), "cross-site")) {
      return absl::OkStatus();
    }
    return MakeError(absl::StatusCode::kPermissionDenied, "CROSS_SITE",
                     "a page of another site may not make this call");
  }

  absl::Status Begin(const std::shared_ptr<HttpExchange>& exchange, RouteMatch match) {
    const HttpRequestHead& head = exchange->head();
    RETURN_IF_ERROR(CheckOrigin(head));
    RETURN_IF_ERROR(CheckNotEncoded(head));
    auto request = std::make_shared<Request>();
    request->exchange = exchange;
    request->match = std::move(match);
    ASSIGN_OR_RETURN(request->metadata, CallMetadataOf(head));
    ASSIGN_OR_RETURN(request->message, BindParameters(request->match, head));
    const HttpRoute& route = *request->match.route;
    if (route.method->client_streaming()) return BeginUpload(*request);
    ReadBody(exchange, kMaxJsonBodyBytes, [self = shared_from_this(), request](absl::StatusOr<std::string> body) {
      self->TakeBody(request, std::move(body));
    });
    return absl::OkStatus();
  }

  absl::Status BeginUpload(Request& request) {
    const HttpRequestHead& head = request.exchange->head();
    if (absl::StartsWithIgnoreCase(Absl(head.field("Content-Type")), "multipart/")) {
      return WithHttpStatus(
          WithField(InvalidArgument("CONTENT_TYPE", "the body is the file's bytes as they are, not a form"),
                    "Content-Type"),
          415);
    }
    ASSIGN_OR_RETURN(const std::optional<ContentRange> range, BindContentRange(head, request.message.get()));
    AnswerUpload(request.exchange, *options_.calls, *request.match.route, std::move(request.message), request.metadata,
                 range);
    return absl::OkStatus();
  }

  void TakeBody(const std::shared_ptr<Request>& request, absl::StatusOr<std::string> body) {
    if (!body.ok()) {
      if (!absl::IsCancelled(body.status())) Respond(*request->exchange, ErrorAnswer(body.status()));
      return;
    }
    if (options_.executor == nullptr || body->size() <= kQuickBodyBytes) return BindAndCall(request, *body);
    const absl::Status queued = options_.executor->Run(
        [self = shared_from_this(), request, body = *std::move(body)] { self->BindAndCall(request, body); });
    if (!queued.ok()) Respond(*request->exchange, ErrorAnswer(queued));
  }

  void BindAndCall(const std::shared_ptr<Request>& request, const std::string& body) {
    absl::Status status = BindBody(request->match, request->exchange->head(), body, request->message.get());
    if (status.ok()) status = CheckSize(*request->message);
    if (status.ok()) status = Call(*request);
    if (!status.ok()) Respond(*request->exchange, ErrorAnswer(status));
  }

  static absl::Status CheckSize(const Message& message) {
    const size_t bytes = message.ByteSizeLong();
    if (bytes <= kMaxMessageBytes) return absl::OkStatus();
    return ResourceExhausted("HTTP_BODY_SIZE", "the request has {} bytes as a message; the limit is {}", bytes,
                             kMaxMessageBytes);
  }

  absl::Status Call(const Request& request) {
    const HttpRoute& route = *request.match.route;
    if (IsDownload(route)) return AnswerDownload(request.exchange, options_.calls, *request.message, request.metadata);
    if (!route.method->server_streaming()) {
      CallUnary(request);
      return absl::OkStatus();
    }
    StreamFormat format;
    format.events = absl::StrContains(Absl(request.exchange->head().field("Accept")), "text/event-stream");
    format.ping_interval = options_.ping_interval;
    format.field = route.response_field;
    AnswerStream(request.exchange, options_.calls->ServerStream(*route.method, *request.message, request.metadata),
                 format);
    return absl::OkStatus();
  }

  void CallUnary(const Request& request) {
    const std::shared_ptr<LocalCall> call =
        options_.calls->Unary(*request.match.route->method, *request.message, request.metadata,
                              [self = shared_from_this(), exchange = request.exchange, route = request.match.route](
                                  MessagePtr message, const grpc::Status& status) {
                                if (!status.ok()) return Respond(*exchange, ErrorAnswer(status));
                                self->ShowMessage(*exchange, *route, *message);
                              });
    // The exchange holds the call, which would else be cancelled here.
    request.exchange->OnGone([call] { call->Cancel(); });
  }

  void ShowMessage(HttpExchange& exchange, const HttpRoute& route, const Message& message) const {
    const Message& shown =
        route.response_field == nullptr ? message : message.GetReflection()->GetMessage(message, route.response_field);
    absl::StatusOr<std::string> json = ToJson(shown);
    if (!json.ok()) return Respond(exchange, ErrorAnswer(json.status()));
    Answer answer;
    answer.head.fields = {{"Content-Type", "application/json"}, {"X-Content-Type-Options", "nosniff"}};
    answer.body = *std::move(json);
    if (route.http_method != "GET") {
      answer.head.fields.emplace_back("Cache-Control", "no-store");
      return Respond(exchange, std::move(answer));
    }
    answer.head.fields.emplace_back("Cache-Control", "private, no-cache");
    const FieldDescriptor* field = HasEtagRequests(route) ? StringField(*shown.GetDescriptor(), "etag") : nullptr;
    const std::string own = field == nullptr ? "" : shown.GetReflection()->GetString(shown, field);
    std::string etag = own.empty() ? ETagOfBytes(answer.body) : ETagOfValue(own);
    RespondWithETag(exchange, std::move(answer), std::move(etag));
  }

  // Whether the field etag of what is at the path is one that calls at the same path take (If-Match). Elsewhere it may
  // say less than that nothing has changed: a job's stays the same while the job makes progress.
  bool HasEtagRequests(const HttpRoute& route) const {
    return std::any_of(routes_.routes().begin(), routes_.routes().end(), [&route](const HttpRoute& other) {
      return other.pattern == route.pattern && StringField(*other.method->input_type(), "etag") != nullptr;
    });
  }

  const RestOptions options_;
  const RouteTable routes_;
  Page openapi_;
  Page docs_;
};

}  // namespace
}  // namespace rest

absl::StatusOr<HttpPart> RestPart(const RestOptions& options) {
  std::vector<std::string> services;
  std::copy_if(options.services.begin(), options.services.end(), std::back_inserter(services),
               [](const std::string& name) { return absl::StartsWith(name, "qamserve.v1."); });
  ASSIGN_OR_RETURN(RouteTable routes, RouteTable::Create(services));
  const auto gateway = std::make_shared<rest::Gateway>(options, std::move(routes));
  RETURN_IF_ERROR(gateway->MakePages());
  HttpPart part;
  part.takes = rest::Gateway::Takes;
  part.name = "rest";
  part.handle = [gateway](std::shared_ptr<HttpExchange> exchange) { gateway->Handle(std::move(exchange)); };
  return part;
}

}  // namespace qamserve
