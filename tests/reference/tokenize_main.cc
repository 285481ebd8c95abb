// Prints the ids of a text file, one a line: what the reference comparisons read.
// Usage: tokenize_main MODEL TEXT [--no-special] [--add-special] [--write-tokenizer DIR]
// MODEL is a GGUF file or a Hugging Face directory. Special tokens written in the text become their ids unless
// --no-special; --add-special puts the tokenizer's BOS/EOS around it. --write-tokenizer stores the tokenizer.json and
// tokenizer_config.json that are used.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/tokenizer/tokenizer.h"

namespace qamserve {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

absl::Status Run(const std::vector<std::string>& args) {
  EncodeOptions options{.add_special = false, .parse_special = true};
  std::vector<std::string> paths;
  std::string write_to;
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--no-special") {
      options.parse_special = false;
    } else if (args[i] == "--add-special") {
      options.add_special = true;
    } else if (args[i] == "--write-tokenizer" && i + 1 < args.size()) {
      write_to = args[++i];
    } else {
      paths.push_back(args[i]);
    }
  }
  if (paths.size() != 2) {
    return InvalidArgument("USAGE", "tokenize_main MODEL TEXT [--no-special] [--add-special] [--write-tokenizer DIR]");
  }
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(paths[0]));
  ASSIGN_OR_RETURN(const TokenizerFiles tokenizer_files, ReadTokenizerFiles(files));
  if (!write_to.empty()) {
    RETURN_IF_ERROR(CreateDirectories(write_to));
    RETURN_IF_ERROR(WriteFileAtomically(write_to + "/tokenizer.json", tokenizer_files.tokenizer_json));
    RETURN_IF_ERROR(WriteFileAtomically(write_to + "/tokenizer_config.json", tokenizer_files.tokenizer_config_json));
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer,
                   Tokenizer::Create(tokenizer_files, files.origin()));
  ASSIGN_OR_RETURN(const std::string text, ReadFile(paths[1], kMaxTextBytes));
  std::string out;
  for (const int32_t id : tokenizer->Encode(text, options)) out += fmt::format("{}\n", id);
  std::fwrite(out.data(), 1, out.size(), stdout);
  return absl::OkStatus();
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  const absl::Status status = qamserve::Run(std::vector<std::string>(argv + 1, argv + argc));
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", qamserve::MessageOf(status).c_str());
  return 1;
}
