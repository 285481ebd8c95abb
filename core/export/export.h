// A quantized model for other engines: its weights dequantized, in a Hugging Face folder or a GGUF file. Start here for
// core/export. The weights are the ones that the kernels compute with, back in the basis of the checkpoint, rounded to
// the wanted type; so another engine's perplexity of the export checks ours of the artifact.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/progress.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/format/file_set.h"
#include "core/format/tensor.h"

namespace qamserve {

enum class ExportFormat {
  kHuggingFace,  // config.json, model*.safetensors, tokenizer files
  kGguf,         // one file, for llama.cpp and what reads its files
};

struct ExportOptions {
  ExportFormat format = ExportFormat::kHuggingFace;
  // Of matrices: F32, F16 or BF16. Norms and biases are F32, which holds them exactly and costs nothing.
  DType dtype = DType::kBF16;
  // Hugging Face: a file ends before the tensor that would take it past this; a larger tensor has a file of its own.
  int64_t max_shard_bytes = 5'000'000'000;
};

// From "hf" or "gguf", and "f32", "f16" or "bf16": INVALID_ARGUMENT (EXPORT_FORMAT, EXPORT_DTYPE) names what is
// allowed.
absl::StatusOr<ExportOptions> ParseExportOptions(std::string_view format, std::string_view dtype);

// Writes `artifact` to `out_path`: a folder that is not there or empty, or a file that is not there (ALREADY_EXISTS,
// EXPORT_EXISTS). The same artifact and options always give the same bytes. Memory is bounded by a few megabytes of
// rows and the tokenizer. Everything is written to `out_path`.export-partial, synced, opened again as a checkpoint, and
// renamed; on failure nothing is left.
//
// UNIMPLEMENTED: EXPORT_MODEL for what GGUF has no key for, EXPORT_TOKENIZER for a tokenizer that it cannot hold.
// INVALID_ARGUMENT (EXPORT_RANGE) names tensor, row and value if F16 cannot hold a weight. RESOURCE_EXHAUSTED
// (DISK_FULL) before anything is written. Errors of the artifact are those of ArtifactReader and Dequantizer.
absl::Status ExportArtifact(const FileSet& artifact, const ExportOptions& options, ThreadPool& pool,
                            ProgressFn progress, const std::string& out_path);

}  // namespace qamserve
