// An artifact of a tiny model and its exports.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/export/export.h"
#include "core/model/model.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_artifact.h"

namespace qamserve {

inline constexpr ExportFormat kFormats[] = {ExportFormat::kHuggingFace, ExportFormat::kGguf};

// One artifact, which may be exported several times: quantizing it takes most of a test's time.
struct Exported {
  TempFolder folder;
  TinyModelOptions model;
  QuantizeSpec spec;
  ExportOptions options;
  int threads = 2;

  absl::Status Quantize() { return WriteTinyArtifact(model, spec, folder.path()); }
  std::string artifact() const { return folder / "artifact"; }
  // A path of its own for each format, type and number of threads.
  std::string out() const {
    return folder / fmt::format("out-{}-{}{}", DTypeName(options.dtype), threads,
                                options.format == ExportFormat::kGguf ? ".gguf" : "");
  }

  absl::Status Export() {
    return Export([](double) { return absl::OkStatus(); });
  }
  absl::Status Export(ProgressFn progress) {
    ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(artifact()));
    ThreadPool pool(threads);
    return ExportArtifact(files, options, pool, progress, out());
  }
  absl::Status QuantizeAndExport() {
    RETURN_IF_ERROR(Quantize());
    return Export();
  }
  // What lies beside the artifact and the checkpoint, other than what quantizing left.
  std::vector<std::string> Leftovers() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("out")) names.push_back(name);
    }
    return names;
  }
};

}  // namespace qamserve
