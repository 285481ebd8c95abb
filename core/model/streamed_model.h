// The unquantized model stepped as Model steps it (model.h), to the last bit, for models that do not fit into memory:
// matrices are multiplied where they lie in mapped files, and the pages of a block are dropped when it has run. Every
// step goes through the whole model, from the page cache where that has room and else from the disk, so that many
// sequences at a time are worth it. Where a whole text is known beforehand, stream.h reads the model once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/model/checkpoint.h"
#include "core/model/forward.h"
#include "core/model/model.h"
#include "core/model/stream.h"

namespace qamserve {

// Used by one thread at a time.
class StreamedModel {
 public:
  // Reads the model once, since numbers in a mapping are not looked at again: TENSOR_NOT_FINITE. Matrices that cannot
  // be multiplied as they are stored (Checkpoint::Stored) go to the file `scratch`, which has no name any more when
  // this returns. The errors of CheckKernelDimensions, ReadRows and files. `checkpoint` and `pool` must outlive it.
  static absl::StatusOr<std::unique_ptr<StreamedModel>> Create(const Checkpoint& checkpoint, ThreadPool& pool,
                                                               const std::string& scratch, StreamProgress progress);

  // Feeds all chunks in one batch and gives vocab_size logits after the last token of each; none may ask for more.
  // `progress` hears of each block. The errors of CheckChunks.
  absl::Status Forward(std::span<const SequenceChunk> chunks, StreamProgress progress, std::vector<float>& logits);

  // Of weights at a time: the pages of one block or of the head.
  static int64_t ResidentBytes(const Checkpoint& checkpoint);
  // Of the scratch file.
  static int64_t ScratchBytes(const Checkpoint& checkpoint);

 private:
  struct Place {
    const MappedFile* file = nullptr;
    uint64_t offset = 0;
  };

  StreamedModel(const Checkpoint& checkpoint, ThreadPool& pool);
  absl::Status Prepare(const std::string& scratch, StreamProgress progress);
  absl::Status CheckAndPlace(const std::string& name, const StoredTensor& stored);
  absl::StatusOr<const MappedFile*> Map(const std::string& path);
  absl::StatusOr<Linear> Matrix(const std::string& name) const;
  absl::Status Embed(std::span<const SequenceChunk> chunks);
  void DropPages() const;

  const Checkpoint& checkpoint_;
  ThreadPool& pool_;
  ForwardBuffers buffers_;
  ForwardContext context_;
  RopeFrequencies rope_;
  std::vector<float> final_norm_;
  std::map<std::string, MappedFile> files_;  // by path
  std::map<std::string, Place> places_;      // of matrices by name
};

}  // namespace qamserve
