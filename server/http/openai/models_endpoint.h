// GET /v1/models and /v1/models/{id}: the served models that are ready, and aliases.
#pragma once

#include <memory>
#include <string>

#include "server/http/openai/session.h"

namespace qamserve::openai {

void AnswerModels(const std::shared_ptr<Session>& session);
// `id` with or without "servedModels/" or "aliases/" before it.
void AnswerModel(const std::shared_ptr<Session>& session, const std::string& id);

}  // namespace qamserve::openai
