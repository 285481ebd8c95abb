// The commands of qamctl, each a row of one table (commands.cc).
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "client/qamctl/session.h"

namespace qamserve::qamctl {

// Runs a command once its flags are parsed.
using Action = std::function<absl::Status(Session&)>;

struct Command {
  const char* name;
  const char* group;    // the heading it is listed under
  const char* summary;  // one line
  // Adds the command's flags to `app` and returns what to run after parsing.
  Action (*build)(CLI::App& app);
};

// All of them, in the order of --help.
std::span<const Command> Commands();

// For a noun with verbs: runs the verb that was given, or `fallback`.
Action RunVerb(std::vector<std::pair<CLI::App*, Action>> verbs, Action fallback);

Action BuildUpload(CLI::App& app);
Action BuildImport(CLI::App& app);
Action BuildCheckpoints(CLI::App& app);
Action BuildQuantize(CLI::App& app);
Action BuildStudy(CLI::App& app);
Action BuildEval(CLI::App& app);
Action BuildJobs(CLI::App& app);
Action BuildWatch(CLI::App& app);
Action BuildCancel(CLI::App& app);
Action BuildArtifacts(CLI::App& app);
Action BuildReport(CLI::App& app);
Action BuildLoad(CLI::App& app);
Action BuildUnload(CLI::App& app);
Action BuildModels(CLI::App& app);
Action BuildAlias(CLI::App& app);
Action BuildGenerate(CLI::App& app);
Action BuildChat(CLI::App& app);
Action BuildScore(CLI::App& app);
Action BuildEmbed(CLI::App& app);
Action BuildCompare(CLI::App& app);
Action BuildTokenize(CLI::App& app);
Action BuildDetokenize(CLI::App& app);
Action BuildKeys(CLI::App& app);
Action BuildAudit(CLI::App& app);
Action BuildWhoami(CLI::App& app);
Action BuildSystem(CLI::App& app);
Action BuildAdmin(CLI::App& app);
Action BuildProbe(CLI::App& app);
Action BuildVersion(CLI::App& app);

}  // namespace qamserve::qamctl
