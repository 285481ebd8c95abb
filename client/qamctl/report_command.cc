#include <algorithm>

#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/text.h"
#include "client/qamctl/watch_view.h"

namespace qamserve::qamctl {
namespace {

struct ReportFlags {
  std::string artifact;
  int worst = 8;
};

void PrintWorstTensors(Session& session, const v1::Report& report, int count) {
  std::vector<const v1::TensorReport*> tensors;
  for (const auto& tensor : report.tensors()) tensors.push_back(&tensor);
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const auto* a, const auto* b) { return a->distortion() > b->distortion(); });
  if (tensors.size() > static_cast<size_t>(count)) tensors.resize(static_cast<size_t>(count));
  if (tensors.empty()) return;
  session.Print(fmt::format("\nworst {} of {} tensors by distortion", tensors.size(), report.tensors_size()));
  Table table({{"TENSOR"},
               {"SHAPE", Align::kRight},
               {"BPW", Align::kRight},
               {"DISTORTION", Align::kRight},
               {"WEIGHTED ERROR", Align::kRight}});
  for (const auto* tensor : tensors) {
    table.Add({tensor->name(), fmt::format("{}x{}", tensor->rows(), tensor->cols()),
               fmt::format("{:.3f}", tensor->bpw()), fmt::format("{:.6f}", tensor->distortion()),
               tensor->weighted_error() > 0 ? fmt::format("{:.6f}", tensor->weighted_error()) : "-"});
  }
  session.terminal().out << table.ToString();
}

absl::Status ShowReport(Session& session, const ReportFlags& flags) {
  ASSIGN_OR_RETURN(const std::string name, ResolveArtifact(session, flags.artifact));
  ASSIGN_OR_RETURN(const v1::Report report, session.client().GetReport(name));
  if (session.json()) {
    session.terminal().out << report.json() << (report.json().ends_with('\n') ? "" : "\n");
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const v1::Artifact artifact, session.client().GetArtifact(name));
  session.Print(fmt::format("{}  {}", Bold(session.terminal(), artifact.name()), artifact.display_name()));
  session.Print(fmt::format("made from    {}, {}", artifact.checkpoint(), artifact.architecture()));
  session.Print(fmt::format("size         {}, {:.3f} bpw with norms and scales, codec {}",
                            HumanBytes(static_cast<double>(artifact.size_bytes())), artifact.bpw(), artifact.codec()));
  PrintQuality(session, report.quality());
  PrintWorstTensors(session, report, flags.worst);
  return absl::OkStatus();
}

}  // namespace

Action BuildReport(CLI::App& app) {
  auto flags = std::make_shared<ReportFlags>();
  app.add_option("artifact", flags->artifact, "Resource name, beginning of the digest, or display name")
      ->required()
      ->type_name("ARTIFACT");
  app.add_option("--worst", flags->worst, "How many of the worst tensors to show (default 8)")
      ->check(NotNegative())
      ->type_name("N");
  app.footer("With --json: report.json of the artifact, as it is. --address and --timeout as in `qamctl --help`.");
  return [flags](Session& session) { return ShowReport(session, *flags); };
}

}  // namespace qamserve::qamctl
