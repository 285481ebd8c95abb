#include "client/qamctl/text_flags.h"

#include "client/qamctl/resolve.h"

namespace qamserve::qamctl {

void AddTemplateFlag(CLI::App& app, const std::string& name, TextFlags& flags) {
  app.add_option("--" + name + (name.empty() ? "template" : "-template"), flags.chat_template,
                 "Let the model's chat template shape this text: conversations in JSON lines, or its own samples "
                 "(default: where that can be done)")
      ->check(CLI::IsMember({"on", "off"}))
      ->type_name("on|off");
}

absl::StatusOr<v1::TextSelection> ResolveSelection(Session& session, const TextFlags& flags, int window_tokens) {
  v1::TextSelection selection;
  ASSIGN_OR_RETURN(*selection.mutable_text(), ResolveText(session, flags.text));
  selection.set_windows(flags.windows);
  selection.set_window_tokens(window_tokens);
  if (!flags.chat_template.empty()) selection.set_chat_template(flags.chat_template == "on");
  return selection;
}

}  // namespace qamserve::qamctl
