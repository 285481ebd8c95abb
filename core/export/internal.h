// The two formats behind ExportArtifact. Nothing outside core/export includes it.
#pragma once

#include <string>

#include "core/export/export.h"
#include "core/format/gguf_file_writer.h"
#include "core/model/artifact.h"
#include "core/tokenizer/gguf_vocabulary.h"

namespace qamserve {

// What both formats read.
struct ExportSource {
  const FileSet& files;
  const ArtifactReader& reader;
  const ExportOptions& options;
  ThreadPool& pool;
  ProgressFn progress;
};

// Each fills `folder`, which is there and empty; before the weights it looks whether they fit.
absl::Status WriteHuggingFace(const ExportSource& source, const std::string& folder);
// One file, kGgufName.
absl::Status WriteGguf(const ExportSource& source, const std::string& folder);
inline constexpr char kGgufName[] = "model.gguf";

// RESOURCE_EXHAUSTED (DISK_FULL) unless `bytes` fit where `folder` is.
absl::Status CheckSpace(const std::string& folder, uint64_t bytes);

// The keys of a model of this config. UNIMPLEMENTED (EXPORT_MODEL) names what GGUF or its readers have no place for.
absl::Status AddModelKeys(const ModelConfig& config, const std::string& origin, GgufMetadata& metadata);
void AddTokenizerKeys(const GgufVocabulary& vocabulary, GgufMetadata& metadata);

}  // namespace qamserve
