#include "core/model/checkpoint.h"
#include "core/tokenizer/tokenizer.h"
#include "server/store/catalog.h"

namespace qamserve {

absl::StatusOr<CheckpointFacts> InspectCheckpoint(const FileSet& files) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(files));
  ASSIGN_OR_RETURN(const TokenizerFiles tokenizer_files, ReadTokenizerFiles(files));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer,
                   Tokenizer::Create(tokenizer_files, files.origin()));
  // Embeddings are often padded beyond the vocabulary, never cut short of it.
  const int64_t vocab = checkpoint->config().vocab_size;
  if (tokenizer->size() > vocab) {
    return InvalidArgument("TOKENIZER_MISMATCH",
                           "{}: the tokenizer has {} tokens, but config vocab_size (rows of the embedding) is {}",
                           files.origin(), tokenizer->size(), vocab);
  }
  return CheckpointFacts{.architecture = ArchitectureName(checkpoint->config().architecture),
                         .parameters = checkpoint->parameters()};
}

}  // namespace qamserve
