#include "server/http/openai/embedding_endpoint.h"

#include <absl/strings/escaping.h>

#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "server/http/openai/completion_request.h"

namespace qamserve::openai {
namespace {

constexpr std::string_view kEmbed = "qamserve.v1.InferenceService.Embed";
// Of one call: 64 vectors of 8192 floats are 2 MiB.
constexpr size_t kInputsPerCall = 64;
constexpr size_t kTextBytesPerCall = kMaxTextBytes;

Json VectorOf(const v1::Embedding& embedding, bool base64) {
  if (!base64) {
    Json list = Json::array();
    for (const float value : embedding.values()) list.push_back(value);
    return list;
  }
  static_assert(std::endian::native == std::endian::little, "clients read little-endian floats");
  std::string bytes(static_cast<size_t>(embedding.values_size()) * sizeof(float), '\0');
  std::memcpy(bytes.data(), embedding.values().data(), bytes.size());
  return absl::Base64Escape(bytes);
}

size_t BytesOf(const Prompt& input) { return input.is_tokens ? input.tokens.size() * 5 : input.text.size(); }

// One call after the other; each keeps this alive.
class EmbeddingJob : public std::enable_shared_from_this<EmbeddingJob> {
 public:
  EmbeddingJob(std::shared_ptr<Session> session, EmbeddingRequest request)
      : session_(std::move(session)), request_(std::move(request)), model_(request_.model) {}

  void Next() {
    if (next_ == request_.inputs.size()) return Finish();
    v1::EmbedRequest embed;
    embed.set_model(model_);
    embed.set_normalize(request_.normalize);
    size_t bytes = 0;
    for (size_t n = 0; n < kInputsPerCall && next_ < request_.inputs.size(); ++n, ++next_) {
      const Prompt& input = request_.inputs[next_];
      bytes += BytesOf(input);
      if (n > 0 && bytes > kTextBytesPerCall) break;
      v1::EmbedInput* to = embed.add_inputs();
      if (input.is_tokens) {
        to->mutable_tokens()->mutable_ids()->Add(input.tokens.begin(), input.tokens.end());
      } else {
        to->set_text(input.text);
      }
    }
    session_->Ask<v1::EmbedResponse>(kEmbed, embed,
                                     [self = shared_from_this()](const v1::EmbedResponse& r) { self->Take(r); });
  }

 private:
  void Take(const v1::EmbedResponse& response) {
    // An alias stays with the model that it chose: vectors of two models do not go together.
    model_ = response.model();
    for (const v1::Embedding& embedding : response.embeddings()) {
      Json entry;
      entry["object"] = "embedding";
      entry["index"] = data_.size();
      entry["embedding"] = VectorOf(embedding, request_.base64);
      data_.push_back(std::move(entry));
      tokens_ += embedding.tokens();
    }
    Next();
  }

  void Finish() {
    Json out;
    out["object"] = "list";
    out["data"] = std::move(data_);
    out["model"] = request_.model;
    out["usage"]["prompt_tokens"] = tokens_;
    out["usage"]["total_tokens"] = tokens_;
    session_->Respond(out);
  }

  const std::shared_ptr<Session> session_;
  const EmbeddingRequest request_;
  // Of one step at a time.
  std::string model_;
  size_t next_ = 0;
  Json data_ = Json::array();
  int64_t tokens_ = 0;
};

}  // namespace

void AnswerEmbeddings(const std::shared_ptr<Session>& session, const Json& body) {
  absl::StatusOr<EmbeddingRequest> request = ReadEmbeddingRequest(body);
  if (!request.ok()) return session->RespondError(ToApiError(request.status()));
  session->SetErrorParams({.input = "input"});
  std::make_shared<EmbeddingJob>(session, *std::move(request))->Next();
}

}  // namespace qamserve::openai
