// The flags that say what text to calibrate or measure on.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "client/qamctl/session.h"

namespace qamserve::qamctl {

struct TextFlags {
  std::string text;  // a local file, texts/{sha256} or built-in; empty: own samples
  int windows = 0;
  std::string chat_template;  // "on", "off"; empty: the server's default
};

// --NAME-template, or --template if `name` is empty.
void AddTemplateFlag(CLI::App& app, const std::string& name, TextFlags& flags);
// Uploads a local file first.
absl::StatusOr<v1::TextSelection> ResolveSelection(Session& session, const TextFlags& flags, int window_tokens);

}  // namespace qamserve::qamctl
