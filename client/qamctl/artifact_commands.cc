// artifacts: list, get, download, export, delete.
#include "client/qamctl/commands.h"
#include "client/qamctl/errors.h"
#include "client/qamctl/export_command.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/text.h"
#include "client/qamctl/transfer_meter.h"

namespace qamserve::qamctl {
namespace {

absl::Status ListArtifacts(Session& session, const std::string& checkpoint_text) {
  std::string checkpoint;
  if (!checkpoint_text.empty()) {
    ASSIGN_OR_RETURN(checkpoint, ResolveStoredCheckpoint(session, checkpoint_text));
  }
  ASSIGN_OR_RETURN(const v1::ListArtifactsResponse list, session.client().ListArtifacts(checkpoint));
  if (session.json()) return session.PrintJson(list);
  if (list.artifacts().empty()) session.Note("no artifacts yet; `qamctl quantize CHECKPOINT --watch` makes one");
  Table table({{"ARTIFACT"},
               {"NAME"},
               {"ARCHITECTURE"},
               {"CODEC"},
               {"BPW", Align::kRight},
               {"SIZE", Align::kRight},
               {"FROM"},
               {"CREATED (UTC)"}});
  for (const auto& artifact : list.artifacts()) {
    table.Add({ShortName(artifact.name()), artifact.display_name(), artifact.architecture(), artifact.codec(),
               fmt::format("{:.3f}", artifact.bpw()), HumanBytes(static_cast<double>(artifact.size_bytes())),
               ShortName(artifact.checkpoint()), HumanTime(artifact.create_time())});
  }
  if (!list.artifacts().empty()) session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status GetArtifact(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const std::string name, ResolveArtifact(session, text));
  ASSIGN_OR_RETURN(const v1::Artifact artifact, session.client().GetArtifact(name));
  if (session.json()) return session.PrintJson(artifact);
  session.Print(fmt::format("{}  {}", Bold(session.terminal(), artifact.name()), artifact.display_name()));
  session.Print(fmt::format("{}, {}, {:.3f} bpw, {}", artifact.architecture(), artifact.codec(), artifact.bpw(),
                            HumanBytes(static_cast<double>(artifact.size_bytes()))));
  session.Print(fmt::format("made from {} by {} at {} UTC", artifact.checkpoint(), artifact.job(),
                            HumanTime(artifact.create_time())));
  Table table({{"FILE"}, {"SIZE", Align::kRight}, {"SHA-256"}});
  for (const auto& file : artifact.files()) {
    table.Add({file.name(), HumanBytes(static_cast<double>(file.size_bytes())), file.sha256()});
  }
  session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status Download(Session& session, const std::string& text, std::string folder) {
  ASSIGN_OR_RETURN(const std::string name, ResolveArtifact(session, text));
  if (folder.empty()) folder = LastPart(ShortName(name));
  Interruptible interruptible(session.terminal().interrupts);
  absl::StatusOr<v1::Artifact> artifact;
  {
    TransferMeter meter(session, "receiving");
    artifact = session.client().DownloadArtifact(
        name, folder, [&](const TransferProgress& progress) { meter.Update(progress); }, interruptible.cancellation());
  }
  if (!artifact.ok() && interruptible.interrupted()) {
    return Cancelled(kInterrupted, "stopped; what has arrived is kept in {}/*.partial: run the same command to go on",
                     folder);
  }
  RETURN_IF_ERROR(artifact.status());
  if (session.json()) return session.PrintJson(*artifact);
  session.Print(fmt::format("{}: {} files, {}, every digest checked", folder, artifact->files_size(),
                            HumanBytes(static_cast<double>(artifact->size_bytes()))));
  return absl::OkStatus();
}

absl::Status DeleteArtifact(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const std::string name, ResolveArtifact(session, text));
  RETURN_IF_ERROR(session.client().DeleteArtifact(name));
  if (session.json()) return session.PrintJson(v1::DeleteArtifactResponse());
  session.Print("deleted " + name);
  return absl::OkStatus();
}

void AddExportFlags(CLI::App& app, ExportFlags& flags) {
  app.add_option("--format", flags.format, "hf: a Hugging Face folder; gguf: one file for llama.cpp")
      ->required()
      ->check(CLI::IsMember({"hf", "gguf"}))
      ->type_name("FORMAT");
  app.add_option("--dtype", flags.dtype, "Type of the weights: bf16, f16 or f32")
      ->capture_default_str()
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->type_name("DTYPE");
  app.add_option("--out", flags.out, "Folder (hf) or file (gguf) to write; it must not be there yet")
      ->required()
      ->type_name("PATH");
}

}  // namespace

Action BuildArtifacts(CLI::App& app) {
  app.require_subcommand(0, 1);
  auto name = std::make_shared<std::string>();
  auto checkpoint = std::make_shared<std::string>();
  auto folder = std::make_shared<std::string>();
  const auto add = [&](const char* verb, const char* summary) {
    CLI::App* sub = app.add_subcommand(verb, summary);
    sub->add_option("artifact", *name, "Resource name, beginning of the digest, or display name")
        ->required()
        ->type_name("ARTIFACT");
    return sub;
  };
  CLI::App* list = app.add_subcommand("list", "List artifacts (the default)");
  list->add_option("--checkpoint", *checkpoint, "Only those made from this checkpoint")->type_name("CHECKPOINT");
  CLI::App* get = add("get", "Show an artifact and its files");
  CLI::App* download = add("download", "Fetch all files and check their digests; goes on where it stopped");
  download->add_option("--output", *folder, "Folder to write to (default: the beginning of the digest)")
      ->type_name("FOLDER");
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* exported = add("export",
                           "Write the model with its weights dequantized, for other engines; ARTIFACT may also be a "
                           "downloaded folder");
  AddExportFlags(*exported, *flags);
  CLI::App* remove = add("delete", "Delete an artifact that nothing serves");
  const Action list_action = [checkpoint](Session& session) { return ListArtifacts(session, *checkpoint); };
  return RunVerb({{list, list_action},
                  {get, [name](Session& session) { return GetArtifact(session, *name); }},
                  {download, [name, folder](Session& session) { return Download(session, *name, *folder); }},
                  {exported,
                   [name, flags](Session& session) {
                     flags->artifact = *name;
                     return Export(session, *flags);
                   }},
                  {remove, [name](Session& session) { return DeleteArtifact(session, *name); }}},
                 list_action);
}

}  // namespace qamserve::qamctl
