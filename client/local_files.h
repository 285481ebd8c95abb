// Which files on this machine make up a model or a text, and their digests.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

struct LocalFile {
  std::string name;  // what it is called in the upload: no folder
  std::string path;
  uint64_t size = 0;
  std::string sha256;          // empty until HashFile
  int64_t modified_nanos = 0;  // when it was hashed, to tell a changed file from a damaged transfer
};

// A GGUF file is itself. Of a folder: config.json, the safetensors (those its index names, where there is an index),
// the tokenizer's files and the chat template; a folder without config.json may hold one GGUF file instead. Weights in
// other formats, README and hidden files stay behind. Sorted by name.
// Errors: NOT_FOUND (FILE_NOT_FOUND), INVALID_ARGUMENT (UPLOAD_NOT_A_MODEL, UPLOAD_FILE_MISSING, UPLOAD_AMBIGUOUS) with
// what was looked for and what is there.
absl::StatusOr<std::vector<LocalFile>> FindModelFiles(const std::string& path);

// One regular file that is not empty.
absl::StatusOr<std::vector<LocalFile>> FindTextFile(const std::string& path);

// Reads the file once; `progress` gets the bytes of each block as it is read and stops the work by returning false
// (CANCELLED).
absl::Status HashFile(LocalFile& file, absl::FunctionRef<bool(uint64_t)> progress);

// Whether the file differs from what HashFile read: by size or modification time, else by reading it once more.
bool ChangedSinceHashed(const LocalFile& file);

}  // namespace qamserve
