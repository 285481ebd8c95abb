// POST /v1/embeddings.
#pragma once

#include <memory>

#include "server/http/openai/session.h"

namespace qamserve::openai {

void AnswerEmbeddings(const std::shared_ptr<Session>& session, const Json& body);

}  // namespace qamserve::openai
