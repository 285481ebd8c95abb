#include "client/qamctl/errors.h"

#include <array>
#include <nlohmann/json.hpp>

#include "client/rpc_status.h"

namespace qamserve::qamctl {
namespace {

struct Hint {
  const char* reason;
  const char* text;
};

constexpr std::array kHints = {
    Hint{"CHECKPOINT_NOT_FOUND", "`qamctl checkpoints` shows what is there; `qamctl upload PATH` sends a model"},
    Hint{"TEXT_NOT_FOUND", "send it with `qamctl upload FILE --text`, or give the local file itself"},
    Hint{"ARTIFACT_NOT_FOUND", "`qamctl artifacts` shows what is there; `qamctl quantize` makes one"},
    Hint{"JOB_NOT_FOUND", "`qamctl jobs` shows what is there"},
    Hint{"INSTANCE_NOT_FOUND",
         "`qamctl admin workers` shows what runs; a server alone has no instances: end it by SIGTERM"},
    Hint{"SERVED_MODEL_NOT_FOUND",
         "`qamctl models` shows what is served; `qamctl load SOURCE --name NAME` serves another"},
    Hint{"MODEL_NOT_FOUND", "`qamctl models` shows what is served; `qamctl load SOURCE --name NAME` serves another"},
    Hint{"ALIAS_NOT_FOUND", "`qamctl alias list` shows what is there; `qamctl alias set NAME MODEL...` makes one"},
    Hint{"ALIAS_NAME_TAKEN", "choose another name; `qamctl alias delete NAME` would free this one"},
    Hint{"MODEL_IN_ALIAS", "`qamctl alias set` it to other models first, or `qamctl alias delete` it"},
    Hint{"ETAG_MISMATCH", "`qamctl alias show NAME` shows what it is now"},
    Hint{"CHECKPOINT_IN_USE", "`qamctl jobs` and `qamctl models` show what uses it"},
    Hint{"ARTIFACT_IN_USE", "`qamctl models` shows who serves it; `qamctl unload NAME` ends that"},
    Hint{"AMBIGUOUS_NAME", "give more of the digest, or the whole resource name"},
    Hint{"DISK_FULL", "free some space and run the same command again; it goes on where it stopped"},
    Hint{"UPLOAD_NOT_FOUND", "run the same upload again; what has arrived is not sent twice"},
    Hint{"EXPORT_TOKENIZER", "`--format hf` takes every tokenizer as it is"},
    Hint{"EXPORT_MODEL", "`--format hf` takes every model"},
    Hint{"EXPORT_RANGE", "`--dtype bf16` or `--dtype f32` holds every weight"},
    Hint{"KEY_NOT_FOUND", "`qamctl keys` shows what is there; `qamctl keys create NAME --scope SCOPE` makes one"},
    Hint{"KEY_MISSING", "give a key with --api-key-file FILE, or in QAMCTL_API_KEY"},
    Hint{"KEY_UNKNOWN", "is it a key of this server, and whole? --api-key-file FILE or QAMCTL_API_KEY give it"},
    Hint{"KEY_EXPIRED", "somebody with an admin key can renew it: `qamctl keys rotate KEY --ttl 30d`"},
    Hint{"KEY_REVOKED", "somebody with an admin key can make another: `qamctl keys create`"},
    Hint{"KEY_SCOPE", "`qamctl whoami` shows what your key may do"},
    Hint{"KEY_LIMIT", "`qamctl whoami` shows what is left of your key's limits"},
    Hint{"KEY_VALID", "`qamctl keys revoke KEY` first"},
    Hint{"FIRST_KEY_ADMIN", "`qamctl keys create NAME --scope admin`, and keep what it prints"},
    Hint{"CHAT_TEMPLATE_MISSING", "this model has no chat template; use `qamctl generate`"},
};

std::string HintFor(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  if (reason == kServerUnreachable) {
    return fmt::format("is it running? start it with `qamserve`, or say where it is: --address HOST:PORT or {}",
                       kAddressVariable);
  }
  for (const Hint& hint : kHints) {
    if (reason == hint.reason) return hint.text;
  }
  // A reason means that the server knows the call and refuses what was asked of it.
  if (reason == "UNIMPLEMENTED") return "this server does not know the call; it may be older than this qamctl";
  if (absl::IsDeadlineExceeded(status)) return "allow more time with --timeout SECONDS";
  return "";
}

std::string MessageFor(const absl::Status& status, std::string_view address) {
  if (ReasonOf(status) != kServerUnreachable) return MessageOf(status);
  return fmt::format("cannot reach qamserve at {}: {}", address, MessageOf(status));
}

}  // namespace

int ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return kExitOk;
  if (ReasonOf(status) == kInterrupted) return kExitInterrupted;
  if (absl::IsNotFound(status)) return kExitNotFound;
  if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) return kExitUnavailable;
  return kExitFailed;
}

void PrintError(Terminal& terminal, bool json, std::string_view address, const absl::Status& status) {
  const std::string message = MessageFor(status, address);
  const std::string hint = HintFor(status);
  if (json) {
    const nlohmann::json error = {{"error",
                                   {{"code", absl::StatusCodeToString(status.code())},
                                    {"reason", ReasonOf(status)},
                                    {"message", message},
                                    {"hint", hint}}}};
    // A path need not be UTF-8; JSON must be.
    terminal.out << error.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n" << std::flush;
    return;
  }
  if (ReasonOf(status) == kInterrupted) {
    // Over the ^C that the terminal shows.
    terminal.err << (terminal.err_tty ? "\r" : "") << message << "\n" << std::flush;
    return;
  }
  terminal.err << Red(terminal, "error:") << " " << message << " (" << ReasonOf(status) << ")\n";
  if (!hint.empty()) terminal.err << "hint: " << hint << "\n";
  terminal.err << std::flush;
}

}  // namespace qamserve::qamctl
