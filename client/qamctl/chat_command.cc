#include <optional>

#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/errors.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/sampling.h"
#include "core/base/file.h"

namespace qamserve::qamctl {
namespace {

// What the server takes.
constexpr uint64_t kMaxToolsBytes = 1 << 20;

struct ChatFlags {
  std::string model;
  std::optional<std::string> message;
  std::string system;
  std::string tools_path;
  std::string template_args;
};

// A conversation: what was said so far goes along with each turn.
class Conversation {
 public:
  Conversation(Session& session, const ChatFlags& chat, const std::string& tools_json, const SamplingFlags& sampling)
      : session_(session), system_(chat.system), stats_(sampling.stats) {
    request_.set_model(ModelName(chat.model));
    *request_.mutable_params() = ToParams(sampling);
    request_.set_priority(sampling.priority);
    request_.set_timeout_seconds(sampling.timeout_seconds);
    request_.set_tools_json(tools_json);
    request_.set_template_args_json(chat.template_args);
    Reset();
  }

  void Reset() {
    request_.clear_messages();
    if (!system_.empty()) Add("system", system_);
  }

  // Sends `text` and prints the answer. After an error the turn is forgotten, so that the next one can do better; an
  // answer that Ctrl-C cut short is kept as far as it came, and INTERRUPTED is returned.
  absl::Status Say(const std::string& text) {
    RETURN_IF_ERROR(CheckUtf8("the message", text));
    Add("user", text);
    Interruptible interruptible(session_.terminal().interrupts);
    StreamPrinter printer(session_, stats_);
    const absl::Status status = session_.client().Chat(
        request_, [&](const v1::GenerateResponse& response) { printer(response); }, interruptible.cancellation());
    const absl::Status printed = printer.Finish();
    const bool stopped = !status.ok() && interruptible.interrupted();
    if (!status.ok() && !stopped) {
      request_.mutable_messages()->RemoveLast();
      return status;
    }
    Add("assistant", printer.text());
    if (stopped) return Cancelled(kInterrupted, "stopped");
    return printed;
  }

 private:
  void Add(const std::string& role, const std::string& content) {
    v1::ChatMessage* message = request_.add_messages();
    message->set_role(role);
    message->set_content(content);
  }

  Session& session_;
  std::string system_;
  bool stats_;
  v1::ChatRequest request_;
};

// Turn by turn until the input ends or says /quit. A person sees errors and goes on; a script stops at the first.
absl::Status Converse(Session& session, Conversation& conversation, const std::string& model) {
  Terminal& terminal = session.terminal();
  if (terminal.in_tty) {
    session.Note(fmt::format("{}: /reset forgets the conversation, /quit ends it, Ctrl-C stops an answer", model));
  }
  std::string line;
  while (true) {
    if (terminal.in_tty && !session.json()) terminal.err << "> " << std::flush;
    if (!std::getline(terminal.in, line) || line == "/quit") break;
    if (line == "/reset") {
      conversation.Reset();
      session.Note("forgotten");
      continue;
    }
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const absl::Status status = conversation.Say(line);
    if (status.ok()) continue;
    if (!terminal.in_tty || absl::IsUnavailable(status) || absl::IsNotFound(status)) return status;
    PrintError(terminal, session.json(), session.client().address(), status);
  }
  return absl::OkStatus();
}

absl::Status Chat(Session& session, const ChatFlags& chat, const SamplingFlags& sampling) {
  std::string tools;
  if (!chat.tools_path.empty()) {
    ASSIGN_OR_RETURN(tools, ReadFile(chat.tools_path, kMaxToolsBytes));
    RETURN_IF_ERROR(CheckUtf8(chat.tools_path, tools));
  }
  Conversation conversation(session, chat, tools, sampling);
  if (!chat.message.has_value()) return Converse(session, conversation, ModelName(chat.model));
  ASSIGN_OR_RETURN(const std::string message, TextOrStdin(session, *chat.message));
  return conversation.Say(message);
}

}  // namespace

Action BuildChat(CLI::App& app) {
  auto chat = std::make_shared<ChatFlags>();
  auto sampling = std::make_shared<SamplingFlags>();
  app.add_option("model", chat->model, "The served model, or an alias")->required()->type_name("MODEL");
  app.add_option("--message", chat->message,
                 "Say this, print the answer and end; - takes all of standard input as the message. Without it each "
                 "line of standard input is a turn")
      ->check(Utf8())
      ->type_name("TEXT|-");
  app.add_option("--system", chat->system, "System message to begin with")->check(Utf8())->type_name("TEXT");
  app.add_option("--tools", chat->tools_path, "File with a JSON array of the tools that the model may call")
      ->type_name("FILE");
  app.add_option("--template-args", chat->template_args,
                 "JSON object of further variables of the chat template: '{\"enable_thinking\": false}'")
      ->check(Utf8())
      ->type_name("JSON");
  AddSamplingFlags(app, sampling);
  return [chat, sampling](Session& session) { return Chat(session, *chat, *sampling); };
}

}  // namespace qamserve::qamctl
