#include "client/qamctl/export_command.h"

#include <google/protobuf/struct.pb.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "client/qamctl/errors.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/text.h"
#include "client/qamctl/transfer_meter.h"
#include "core/base/file.h"
#include "core/export/export.h"

namespace qamserve::qamctl {
namespace {

// Smooth to the eye on a tty; a log stays short.
constexpr double kRedrawSeconds = 0.1;
constexpr double kLineSeconds = 3;
constexpr int kBarCells = 20;

// The progress of the export on the error stream; nothing with --json.
class ExportMeter {
 public:
  explicit ExportMeter(Session& session)
      : session_(session), last_(session.terminal().now_seconds()), live_(session.terminal().err) {}

  void Update(double fraction) {
    Terminal& terminal = session_.terminal();
    const double now = terminal.now_seconds();
    if (session_.json() || now - last_ < (terminal.err_tty ? kRedrawSeconds : kLineSeconds)) return;
    last_ = now;
    const std::string line = fmt::format("exporting {} {:3.0f}%", Bar(fraction, kBarCells), 100 * fraction);
    if (terminal.err_tty) {
      live_.Draw({line}, terminal.screen());
    } else {
      session_.Note(line);
    }
  }

 private:
  Session& session_;
  double last_;
  LiveLines live_;
};

bool IsLocalArtifact(const std::string& text) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(text + "/config.json", ignored);
}

absl::Status CheckOut(const std::string& out) {
  std::error_code ignored;
  const auto status = std::filesystem::symlink_status(out, ignored);
  const bool empty_folder = std::filesystem::is_directory(status) && std::filesystem::is_empty(out, ignored);
  if (!std::filesystem::exists(status) || empty_folder) return absl::OkStatus();
  return AlreadyExists("EXPORT_EXISTS", "{} is there already; give another path or remove it", out);
}

absl::Status Fetch(Session& session, const std::string& name, const std::string& folder, Interruptible& interruptible) {
  TransferMeter meter(session, "receiving");
  const auto artifact = session.client().DownloadArtifact(
      name, folder, [&](const TransferProgress& progress) { meter.Update(progress); }, interruptible.cancellation());
  if (artifact.ok() || !interruptible.interrupted()) return artifact.status();
  return Cancelled(kInterrupted, "stopped; what has arrived is kept in {}: run the same command to go on", folder);
}

absl::Status ExportFolder(Session& session, const std::string& folder, const ExportOptions& options,
                          const std::string& out, Interruptible& interruptible) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(folder));
  ThreadPool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  ExportMeter meter(session);
  const auto progress = [&](double fraction) -> absl::Status {
    if (interruptible.interrupted()) return Cancelled(kInterrupted, "stopped; nothing was written to {}", out);
    meter.Update(fraction);
    return absl::OkStatus();
  };
  return ExportArtifact(files, options, pool, progress, out);
}

absl::Status Tell(Session& session, const std::string& source, const ExportFlags& flags) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(flags.out));
  uint64_t bytes = 0;
  for (const FileEntry& file : files.files()) bytes += file.size;
  if (!session.json()) {
    session.Print(fmt::format("{}: {} in {}, {}, from {}", flags.out, flags.format, flags.dtype,
                              HumanBytes(static_cast<double>(bytes)), ShortName(source)));
    return absl::OkStatus();
  }
  google::protobuf::Struct answer;
  auto& fields = *answer.mutable_fields();
  fields["artifact"].set_string_value(source);
  fields["format"].set_string_value(flags.format);
  fields["dtype"].set_string_value(flags.dtype);
  fields["path"].set_string_value(flags.out);
  fields["size_bytes"].set_number_value(static_cast<double>(bytes));
  auto& names = *fields["files"].mutable_list_value();
  for (const FileEntry& file : files.files()) names.add_values()->set_string_value(file.name);
  return session.PrintJson(answer);
}

}  // namespace

absl::Status Export(Session& session, const ExportFlags& flags) {
  ASSIGN_OR_RETURN(const ExportOptions options, ParseExportOptions(flags.format, flags.dtype));
  // Before a download of gigabytes.
  RETURN_IF_ERROR(CheckOut(flags.out));
  Interruptible interruptible(session.terminal().interrupts);
  if (IsLocalArtifact(flags.artifact)) {
    RETURN_IF_ERROR(ExportFolder(session, flags.artifact, options, flags.out, interruptible));
    return Tell(session, flags.artifact, flags);
  }
  ASSIGN_OR_RETURN(const std::string name, ResolveArtifact(session, flags.artifact));
  // The digest in its name keeps what another artifact left there apart.
  const std::string folder = fmt::format("{}.{}.download", flags.out, LastPart(ShortName(name)));
  RETURN_IF_ERROR(Fetch(session, name, folder, interruptible));
  RETURN_IF_ERROR(ExportFolder(session, folder, options, flags.out, interruptible));
  RETURN_IF_ERROR(RemoveAll(folder));
  return Tell(session, name, flags);
}

}  // namespace qamserve::qamctl
