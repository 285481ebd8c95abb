// upload, import, checkpoints.
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

struct ModelSource {
  std::string path;
  std::string name;
  bool text = false;
};

v1::UploadKind KindOf(const ModelSource& source) {
  return source.text ? v1::UPLOAD_KIND_TEXT : v1::UPLOAD_KIND_CHECKPOINT;
}

void PrintCheckpoint(Session& session, const v1::Checkpoint& checkpoint) {
  session.Print(fmt::format("{}  {}  {}, {} parameters, {} in {} file{}",
                            Bold(session.terminal(), ShortName(checkpoint.name())), checkpoint.display_name(),
                            checkpoint.architecture(), HumanCount(static_cast<double>(checkpoint.parameters())),
                            HumanBytes(static_cast<double>(checkpoint.size_bytes())), checkpoint.files_size(),
                            checkpoint.files_size() == 1 ? "" : "s"));
}

absl::Status PrintReceived(Session& session, const v1::CompleteUploadResponse& response) {
  if (session.json()) return session.PrintJson(response);
  if (response.has_text()) {
    const v1::Text& text = response.text();
    session.Print(fmt::format("{}  {}  {}", Bold(session.terminal(), text.name()), text.display_name(),
                              HumanBytes(static_cast<double>(text.size_bytes()))));
    session.Note(fmt::format("next: qamctl quantize CHECKPOINT --calibration {}", text.name()));
    return absl::OkStatus();
  }
  PrintCheckpoint(session, response.checkpoint());
  session.Note(fmt::format("next: qamctl quantize {} --watch", ShortName(response.checkpoint().name())));
  return absl::OkStatus();
}

absl::Status ListCheckpoints(Session& session) {
  ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse list, session.client().ListCheckpoints());
  if (session.json()) return session.PrintJson(list);
  if (list.checkpoints().empty()) session.Note("no checkpoints yet; `qamctl upload PATH` sends one");
  Table table({{"CHECKPOINT"},
               {"NAME"},
               {"ARCHITECTURE"},
               {"PARAMETERS", Align::kRight},
               {"SIZE", Align::kRight},
               {"CREATED (UTC)"}});
  for (const auto& checkpoint : list.checkpoints()) {
    table.Add({ShortName(checkpoint.name()), checkpoint.display_name(), checkpoint.architecture(),
               HumanCount(static_cast<double>(checkpoint.parameters())),
               HumanBytes(static_cast<double>(checkpoint.size_bytes())), HumanTime(checkpoint.create_time())});
  }
  if (!list.checkpoints().empty()) session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status GetCheckpoint(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const std::string name, ResolveStoredCheckpoint(session, text));
  ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, session.client().GetCheckpoint(name));
  if (session.json()) return session.PrintJson(checkpoint);
  PrintCheckpoint(session, checkpoint);
  session.Print(checkpoint.name());
  Table table({{"FILE"}, {"SIZE", Align::kRight}, {"SHA-256"}});
  for (const auto& file : checkpoint.files()) {
    table.Add({file.name(), HumanBytes(static_cast<double>(file.size_bytes())), file.sha256()});
  }
  session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status DeleteCheckpoint(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const std::string name, ResolveStoredCheckpoint(session, text));
  RETURN_IF_ERROR(session.client().DeleteCheckpoint(name));
  if (session.json()) return session.PrintJson(v1::DeleteCheckpointResponse());
  session.Print("deleted " + name);
  return absl::OkStatus();
}

}  // namespace

Action BuildUpload(CLI::App& app) {
  auto source = std::make_shared<ModelSource>();
  app.add_option("path", source->path, "A .gguf file, a Hugging Face folder (config.json, *.safetensors), or a text")
      ->required()
      ->type_name("PATH");
  app.add_option("--name", source->name, "Display name (default: that of the file or folder)")->type_name("NAME");
  app.add_flag("--text", source->text, "The file is a text to calibrate or evaluate on");
  return [source](Session& session) -> absl::Status {
    ASSIGN_OR_RETURN(
        const v1::CompleteUploadResponse response,
        UploadWithProgress(session, {.path = source->path, .kind = KindOf(*source), .display_name = source->name}));
    return PrintReceived(session, response);
  };
}

Action BuildImport(CLI::App& app) {
  auto source = std::make_shared<ModelSource>();
  app.add_option("path", source->path,
                 "File or folder on the server, relative to its --import-root; hf://ORGANISATION/MODEL[@REVISION][/FILE] "
                 "of the hub, or s3://BUCKET/PREFIX of the object store that the server's options name")
      ->required()
      ->type_name("PATH");
  app.add_option("--name", source->name, "Display name (default: that of the file or folder)")->type_name("NAME");
  app.add_flag("--text", source->text, "The file is a text to calibrate or evaluate on");
  return [source](Session& session) -> absl::Status {
    v1::ImportCheckpointRequest request;
    request.set_kind(KindOf(*source));
    if (source->path.find("://") == std::string::npos) {
      request.set_path(source->path);
    } else {
      request.set_source(source->path);
    }
    request.set_display_name(source->name);
    session.Note("the server reads and checks " + source->path + " ...");
    ASSIGN_OR_RETURN(const v1::CompleteUploadResponse response, session.client().ImportCheckpoint(request));
    return PrintReceived(session, response);
  };
}

Action BuildCheckpoints(CLI::App& app) {
  app.require_subcommand(0, 1);
  auto name = std::make_shared<std::string>();
  const auto add = [&](const char* verb, const char* summary) {
    CLI::App* sub = app.add_subcommand(verb, summary);
    sub->add_option("checkpoint", *name, "Resource name, beginning of the digest, or display name")
        ->required()
        ->type_name("CHECKPOINT");
    return sub;
  };
  CLI::App* list = app.add_subcommand("list", "List checkpoints (the default)");
  CLI::App* get = add("get", "Show a checkpoint and its files");
  CLI::App* remove = add("delete", "Delete a checkpoint that nothing uses");
  return RunVerb({{list, ListCheckpoints},
                  {get, [name](Session& session) { return GetCheckpoint(session, *name); }},
                  {remove, [name](Session& session) { return DeleteCheckpoint(session, *name); }}},
                 ListCheckpoints);
}

}  // namespace qamserve::qamctl
