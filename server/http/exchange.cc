#include "server/http/exchange.h"

#include <absl/strings/match.h>

namespace qamserve {
namespace {

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

// Takes pieces until the body ends; held by the read that is under way.
class BodyReader : public std::enable_shared_from_this<BodyReader> {
 public:
  BodyReader(std::shared_ptr<HttpExchange> exchange, size_t limit,
             std::function<void(absl::StatusOr<std::string>)> done)
      : exchange_(std::move(exchange)), limit_(limit), done_(std::move(done)) {}

  void Next() {
    exchange_->ReadSome(
        [self = shared_from_this()](absl::StatusOr<std::string> piece) { self->Take(std::move(piece)); });
  }

 private:
  void Take(absl::StatusOr<std::string> piece) {
    if (!piece.ok()) return done_(piece.status());
    if (piece->empty()) return done_(std::move(body_));
    if (piece->size() > limit_ - body_.size()) {
      return done_(ResourceExhausted("HTTP_BODY_SIZE", "the body has more than {} bytes", limit_));
    }
    body_ += *piece;
    Next();
  }

  const std::shared_ptr<HttpExchange> exchange_;
  const size_t limit_;
  const std::function<void(absl::StatusOr<std::string>)> done_;
  std::string body_;  // at most limit_ bytes
};

}  // namespace

std::string_view FieldOf(const HttpFields& fields, std::string_view name) {
  for (const auto& [key, value] : fields) {
    if (absl::EqualsIgnoreCase(Absl(key), Absl(name))) return value;
  }
  return {};
}

void ReadBody(const std::shared_ptr<HttpExchange>& exchange, size_t limit,
              std::function<void(absl::StatusOr<std::string>)> done) {
  std::make_shared<BodyReader>(exchange, limit, std::move(done))->Next();
}

}  // namespace qamserve
