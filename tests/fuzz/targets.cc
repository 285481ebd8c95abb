#include "tests/fuzz/targets.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

#include "core/constraint/constraint.h"
#include "core/format/gguf.h"
#include "core/format/safetensors.h"
#include "core/format/safetensors_header.h"
#include "core/model/artifact.h"
#include "core/model/config.h"
#include "core/model/parameters.h"
#include "core/quantize/quantize.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/utf8.h"
#include "tests/support/tiny_tokenizer.h"

namespace qamserve {
namespace {

constexpr FuzzTarget kTargets[] = {
    {"gguf", FuzzGguf, GgufSeeds},
    {"safetensors", FuzzSafetensors, SafetensorsSeeds},
    {"tokenizer", FuzzTokenizer, TokenizerSeeds},
    {"chat_template", FuzzChatTemplate, ChatTemplateSeeds},
    {"artifact", FuzzArtifact, ArtifactSeeds},
    {"quantize_spec", FuzzQuantizeSpec, QuantizeSpecSeeds},
    {"constraint", FuzzConstraint, ConstraintSeeds},
};

// Longer texts take longer and find nothing else.
constexpr size_t kMaxText = 4096;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

// A refusal must say why.
void CheckStatus(const absl::Status& status) {
  if (status.ok()) return;
  Require(!ReasonOf(status).empty() && !MessageOf(status).empty(), "an error has a reason and a message");
  Require(MessageOf(status).size() < 10'000, "a message is short whatever the input");
}

// Bytes that can be opened by path without a disk.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : size_(bytes.size()), fd_(memfd_create("input", MFD_CLOEXEC)) {
    Require(fd_ >= 0 && write(fd_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()), "memfd");
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  FileEntry As(std::string name) const { return {std::move(name), fmt::format("/proc/self/fd/{}", fd_), size_}; }

 private:
  uint64_t size_;
  int fd_;
};

// What stands before the first NUL; `rest` is left with what follows it.
std::string_view TakePart(std::string_view& rest) {
  const size_t end = rest.find('\0');
  const std::string_view part = rest.substr(0, end);
  rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  return part;
}

void CheckTensors(const TensorSource& source, uint64_t file_bytes) {
  for (const TensorInfo& tensor : source.tensors()) {
    Require(tensor.offset <= file_bytes && tensor.bytes <= file_bytes - tensor.offset, "a tensor lies in its file");
    Require(source.Find(tensor.name) == &tensor, "a tensor is found by its name");
    if (tensor.bytes == 0) continue;
    std::array<std::byte, 1> byte;
    Require(source.ReadBytes(tensor, 0, byte).ok() && source.ReadBytes(tensor, tensor.bytes - 1, byte).ok(),
            "a tensor's first and last byte can be read");
    Require(!source.ReadBytes(tensor, tensor.bytes, byte).ok(), "what is beyond a tensor cannot");
  }
}

void CheckTokenizer(const TokenizerFiles& files, std::string_view text) {
  const auto tokenizer = Tokenizer::Create(files, "input");
  CheckStatus(tokenizer.status());
  if (!tokenizer.ok()) return;
  for (const EncodeOptions options : {EncodeOptions{false, false}, EncodeOptions{true, true}}) {
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text, options);
    StreamDecoder stream(**tokenizer);
    std::string streamed;
    for (const int32_t id : ids) {
      Require(id >= 0 && id < (*tokenizer)->size(), "ids are in the vocabulary");
      streamed += stream.Add(id);
    }
    streamed += stream.Flush();
    Require(IsRepairedUtf8(streamed), "what is streamed is UTF-8");
    (void)(*tokenizer)->Decode(ids, options.add_special);
  }
}

}  // namespace

std::span<const FuzzTarget> FuzzTargets() { return kTargets; }

void FuzzGguf(std::string_view input) {
  const MemoryFile file(input);
  const auto gguf = GgufReader::Open(file.As("input.gguf"));
  CheckStatus(gguf.status());
  if (!gguf.ok()) return;
  CheckTensors(**gguf, input.size());
  CheckStatus(ModelConfigFromGguf(**gguf).status());
  const auto files = TokenizerFilesFromGguf(**gguf);
  CheckStatus(files.status());
  if (files.ok()) CheckTokenizer(*files, "Hello, w\xc3\xb6rld <|im_end|> \xff 123");
}

void FuzzSafetensors(std::string_view input) {
  if (input.starts_with('{')) return CheckStatus(ParseSafetensorsIndex("index", input).status());
  const MemoryFile file(input);
  const auto reader = SafetensorsReader::Open(FileSet("input", {file.As("model.safetensors")}));
  CheckStatus(reader.status());
  if (reader.ok()) CheckTensors(**reader, input.size());
}

void FuzzTokenizer(std::string_view input) {
  TokenizerFiles files;
  files.tokenizer_json = TakePart(input);
  files.tokenizer_config_json = TakePart(input);
  CheckTokenizer(files, input.substr(0, kMaxText));
}

void FuzzChatTemplate(std::string_view input) {
  const std::string_view source = TakePart(input);
  const auto chat = ChatTemplate::Parse(source, "<s>", "</s>");
  CheckStatus(chat.status());
  if (!chat.ok()) return;
  const std::string content = RepairUtf8(input.substr(0, kMaxText));
  const auto prompt = (*chat)->Render({{"system", "s"}, {"user", content}, {"assistant", "a"}, {"user", "u"}}, {});
  if (!prompt.ok()) Require(!ReasonOf(prompt.status()).empty(), "an error has a reason");
  const ChatRenderOptions with_tools{false, R"([{"type": "function", "function": {"name": "f", "parameters": {}}}])"};
  (void)(*chat)->Render({{"user", content}}, with_tools);
  // The same bytes as the JSON of a request.
  ChatRenderOptions with_args;
  with_args.template_args_json = content;
  (void)(*chat)->Render({{"user", "u"}}, with_args);
  (void)(*chat)->Render({{"user", "u"}, {.role = "assistant", .tool_calls_json = content}}, {});
  ChatRenderOptions go_on;
  go_on.continue_last_message = true;
  (void)(*chat)->Render({{"user", "u"}, {"assistant", content}}, go_on);
}

void FuzzArtifact(std::string_view input) {
  const std::string config(TakePart(input));
  (void)IsArtifactConfig(config);
  CheckStatus(ModelConfigFromJson(config, "config.json").status());
  const auto quantization = ReadQuantizationConfig(config, "config.json");
  CheckStatus(quantization.status());
  if (quantization.ok()) CheckStatus(WithQuantizationConfig(config, *quantization).status());
  const MemoryFile config_file(config);
  const MemoryFile weights_file(input);
  const auto artifact =
      ArtifactReader::Open(FileSet("input", {config_file.As(kConfigFile), weights_file.As(kWeightsFile)}));
  CheckStatus(artifact.status());
  if (!artifact.ok()) return;
  CheckStatus((*artifact)->LoadEmbedding(std::string(kInputEmbedding)).status());
  for (int64_t layer = 0; layer < std::min<int64_t>(4, (*artifact)->config().num_layers); ++layer) {
    CheckStatus((*artifact)->LoadLayer(layer).status());
  }
}

void FuzzQuantizeSpec(std::string_view input) {
  const auto spec = QuantizeSpecFromJson(std::string(input));
  CheckStatus(spec.status());
  if (!spec.ok()) return;
  const std::string canonical = QuantizeSpecToJson(*spec);
  const auto again = QuantizeSpecFromJson(canonical);
  Require(again.ok() && QuantizeSpecToJson(*again) == canonical, "the canonical text reads as what wrote it");
  CheckStatus(ValidateQuantizeSpec(*spec));
}

// Compiles, then takes the first token that is allowed, a few times: one must be, until the answer is complete.
void FuzzConstraint(std::string_view input) {
  if (input.empty()) return;
  const auto kind = static_cast<ConstraintKind>(static_cast<unsigned char>(input[0]) % 5);
  const auto tokenizer =
      Tokenizer::Create({TinyTokenizerJson(MakeTinyVocabulary(280)), TinyTokenizerConfigJson(), ""}, "tiny");
  Require(tokenizer.ok(), "the tokenizer is right");
  const auto constraint =
      Constraint::Compile({kind, std::string(input.substr(1, kMaxText))}, TokenTrie::Create(*tokenizer));
  CheckStatus(constraint.status());
  if (!constraint.ok()) return;
  ConstraintMatcher matcher(*constraint);
  for (int step = 0; step < 20 && !matcher.IsOver(); ++step) {
    std::vector<float> logits(static_cast<size_t>((*tokenizer)->size()), 0.0f);
    const auto goes_on = matcher.Allow(logits, /*ignore_eos=*/true);
    CheckStatus(goes_on.status());
    if (!goes_on.ok()) return Require(ReasonOf(goes_on.status()) == "CONSTRAINT_SIZE", "only limits end an answer");
    if (!*goes_on) return Require(matcher.IsComplete(), "what cannot go on is complete");
    const auto token = std::find(logits.rbegin(), logits.rend(), 0.0f);
    CheckStatus(matcher.Accept(static_cast<int32_t>(logits.rend() - token) - 1));
  }
}

}  // namespace qamserve
