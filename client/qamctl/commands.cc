#include "client/qamctl/commands.h"

#include <array>

namespace qamserve::qamctl {
namespace {

constexpr char kModels[] = "Models in";
constexpr char kWork[] = "Quantize and measure";
constexpr char kServe[] = "Serve";
constexpr char kText[] = "Text";
constexpr char kAccess[] = "Who may do what";
constexpr char kOther[] = "Other";

constexpr std::array kCommands = {
    Command{"upload", kModels, "Send a model or a text from this machine to the server", BuildUpload},
    Command{"import", kModels, "Have the server read a model or a text below its import root", BuildImport},
    Command{"checkpoints", kModels, "List, show or delete uploaded models", BuildCheckpoints},
    Command{"quantize", kWork, "Quantize a checkpoint, or a local model, which is uploaded first", BuildQuantize},
    Command{"study", kWork, "Measure methods at rates on checkpoints, side by side", BuildStudy},
    Command{"watch", kWork, "Follow a job to its end", BuildWatch},
    Command{"jobs", kWork, "List, show, follow, cancel, retry or delete jobs", BuildJobs},
    Command{"cancel", kWork, "Cancel a job", BuildCancel},
    Command{"report", kWork, "Show how good an artifact is", BuildReport},
    Command{"eval", kWork, "Measure an artifact again, on a text of your choice", BuildEval},
    Command{"artifacts", kWork, "List, show, download, export or delete quantized models", BuildArtifacts},
    Command{"load", kServe, "Serve an artifact or a checkpoint under a name", BuildLoad},
    Command{"unload", kServe, "Stop serving a model", BuildUnload},
    Command{"models", kServe, "List served models", BuildModels},
    Command{"alias", kServe, "Set, list, show or delete names that spread requests over served models", BuildAlias},
    Command{"generate", kText, "Continue a prompt", BuildGenerate},
    Command{"chat", kText, "Talk with a model", BuildChat},
    Command{"score", kText, "Log-probability of a text", BuildScore},
    Command{"embed", kText, "The mean hidden state of texts", BuildEmbed},
    Command{"compare", kText, "How two served models differ on a text, token by token", BuildCompare},
    Command{"tokenize", kText, "Token ids of a text", BuildTokenize},
    Command{"detokenize", kText, "Text of token ids", BuildDetokenize},
    Command{"keys", kAccess, "Make, list, show, rotate, revoke or delete API keys", BuildKeys},
    Command{"audit", kAccess, "Who changed what, and who was refused", BuildAudit},
    Command{"whoami", kAccess, "The API key in use, and what is left of its limits", BuildWhoami},
    Command{"system", kOther, "What the server is and how busy it is", BuildSystem},
    Command{"admin", kOther, "Workers, leases, queue, garbage, schema and backup of the service", BuildAdmin},
    Command{"probe", kOther, "Whether a server lives or is ready, asked over HTTP; for health checks", BuildProbe},
    Command{"version", kOther, "Version of qamctl", BuildVersion},
};

}  // namespace

std::span<const Command> Commands() { return kCommands; }

Action RunVerb(std::vector<std::pair<CLI::App*, Action>> verbs, Action fallback) {
  return [verbs = std::move(verbs), fallback = std::move(fallback)](Session& session) {
    for (const auto& [app, action] : verbs) {
      if (app->parsed()) return action(session);
    }
    return fallback(session);
  };
}

}  // namespace qamserve::qamctl
