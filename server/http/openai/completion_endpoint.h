// POST /v1/completions.
#pragma once

#include <memory>

#include "server/http/openai/session.h"

namespace qamserve::openai {

void AnswerCompletion(const std::shared_ptr<Session>& session, const Json& body);

}  // namespace qamserve::openai
