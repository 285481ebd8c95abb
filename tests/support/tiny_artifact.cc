#include "tests/support/tiny_artifact.h"

#include "core/base/file.h"
#include "core/base/rng.h"

namespace qamserve {

absl::Status WriteTinyArtifact(const TinyModelOptions& model, const QuantizeSpec& spec, const std::string& folder) {
  const auto no_progress = [](double) { return absl::OkStatus(); };
  RETURN_IF_ERROR(WriteTinyModel(model, folder + "/model"));
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(folder + "/model"));
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(files));
  ASSIGN_OR_RETURN(const auto quantizer, Quantizer::Create(checkpoint, spec));
  const QuantizePlan& plan = quantizer->plan();
  ThreadPool pool(1);
  std::vector<std::string> statistics;
  if (NeedsStatistics(spec)) {
    Rng rng(17);
    std::vector<std::vector<int32_t>> windows(2);
    for (auto& window : windows) {
      for (int t = 0; t < 32; ++t)
        window.push_back(static_cast<int32_t>(rng.NextU64() % static_cast<uint64_t>(model.vocab_size)));
    }
    statistics.push_back(folder + "/statistics");
    RETURN_IF_ERROR(CalibrateShard(*checkpoint, spec, windows, pool, no_progress, statistics[0]));
  }
  ArtifactInputs inputs;
  inputs.display_name = "tiny";
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    inputs.packed.push_back(fmt::format("{}/{}.packed", folder, i));
    ASSIGN_OR_RETURN(TensorOutcome outcome,
                     quantizer->QuantizeTensor(i, statistics, pool, no_progress, inputs.packed.back()));
    inputs.outcomes.push_back(std::move(outcome));
  }
  return AssembleArtifact(*checkpoint, spec, plan, inputs, no_progress, folder + "/artifact");
}

}  // namespace qamserve
