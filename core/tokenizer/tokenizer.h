// Text <-> token ids, as the checkpoint's own tokenizer.json defines it. Start here for core/tokenizer.
// Supported: byte-level BPE (GPT-2, SmolLM, Llama 3, Qwen 2/3 pre-tokenizers) and SentencePiece-style BPE with byte
// fallback (Llama 2, Mistral, Gemma). Anything else in the file is UNIMPLEMENTED (TOKENIZER_UNSUPPORTED) and names it.
// Thread safety: const and immutable after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/file_set.h"
#include "core/format/gguf.h"

namespace qamserve {

struct EncodeOptions {
  bool add_special = false;    // put the tokenizer's own BOS/EOS around the text
  bool parse_special = false;  // special tokens written in the text become their ids
};

// The files of a Hugging Face directory that describe a tokenizer.
struct TokenizerFiles {
  std::string tokenizer_json;
  std::string tokenizer_config_json;  // may be empty
  std::string chat_template;          // Jinja source; may be empty
};

// From "tokenizer.json", "tokenizer_config.json" and "chat_template.jinja" of a directory, or from the metadata of a
// GGUF file, whose vocabulary, merges (or scores), token types and pre-tokenizer become an equivalent tokenizer.json.
absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const FileSet& files);
absl::StatusOr<TokenizerFiles> TokenizerFilesFromGguf(const GgufReader& gguf);

class Tokenizer {
 public:
  // `origin` is what messages call it.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Create(const TokenizerFiles& files, std::string origin);
  virtual ~Tokenizer() = default;

  // Any bytes are accepted; invalid UTF-8 is read as U+FFFD for matching, and byte tokens carry it where the
  // vocabulary has them.
  virtual std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const = 0;
  // Bytes of the tokens in a row; special tokens are left out if `skip_special`. Ids out of range are left out.
  virtual std::string Decode(std::span<const int32_t> ids, bool skip_special) const = 0;
  // The bytes that one token adds when it is not the first of a text.
  virtual std::string TokenBytes(int32_t id) const = 0;
  // Ids that exist: 0 <= id < size().
  virtual int32_t size() const = 0;
  virtual std::optional<int32_t> TokenToId(std::string_view token) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::optional<int32_t> bos_id() const = 0;
  // Tokens that end a generation: eos_token (first, if there is one), and end-of-turn tokens (<|im_end|>, <|eot_id|>,
  // <end_of_turn>).
  virtual const std::vector<int32_t>& stop_ids() const = 0;
  // SHA-256 of tokenizer.json.
  virtual const std::string& digest() const = 0;
};

// Turns a stream of tokens into text that is always whole UTF-8: bytes of an unfinished character are held back.
// Not thread-safe. `tokenizer` must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  // The text that `id` completes; may be empty.
  std::string Add(int32_t id);
  // What is held back, with U+FFFD in place of an unfinished character.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace qamserve
