#include "core/tokenizer/post_processor.h"

#include <string>

namespace qamserve {
namespace {

constexpr int kMaxDepth = 8;

absl::Status AppendIds(const Json& component, const std::string& name, int32_t size, std::vector<int32_t>& out) {
  const Json* table = FindField(component, "special_tokens");
  const Json* token = table == nullptr ? nullptr : FindField(*table, name);
  const Json* ids = token == nullptr ? nullptr : FindField(*token, "ids");
  if (ids == nullptr || !ids->is_array()) {
    return InvalidArgument("TOKENIZER_INVALID", "special token \"{}\" has no \"ids\"", name);
  }
  for (const Json& id : *ids) {
    if (!id.is_number_integer() || id < 0 || id >= size) {
      return InvalidArgument("TOKENIZER_INVALID", "special token \"{}\": id {} is outside [0, {})", name, id.dump(),
                             size);
    }
    out.push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status ReadTemplate(const Json& component, int32_t size, SpecialFrame& frame) {
  const Json* single = FindField(component, "single");
  if (single == nullptr || !single->is_array()) {
    return InvalidArgument("TOKENIZER_INVALID", "TemplateProcessing without a list \"single\"");
  }
  bool seen_text = false;
  for (const Json& piece : *single) {
    if (FindField(piece, "Sequence") != nullptr) {
      if (seen_text) return Unimplemented("TOKENIZER_UNSUPPORTED", "TemplateProcessing that repeats the text");
      seen_text = true;
      continue;
    }
    const Json* special = FindField(piece, "SpecialToken");
    if (special == nullptr) {
      return InvalidArgument("TOKENIZER_INVALID", "TemplateProcessing: neither \"Sequence\" nor \"SpecialToken\"");
    }
    ASSIGN_OR_RETURN(const std::string name, StringField(*special, "id", ""));
    RETURN_IF_ERROR(AppendIds(component, name, size, seen_text ? frame.after : frame.before));
  }
  frame.from_template = true;
  return absl::OkStatus();
}

absl::Status Read(const Json& component, int32_t size, int depth, SpecialFrame& frame) {
  const std::string type = TypeOf(component);
  if (type == "ByteLevel") return absl::OkStatus();
  if (type == "TemplateProcessing") return ReadTemplate(component, size, frame);
  if (type != "Sequence") return Unimplemented("TOKENIZER_UNSUPPORTED", "type \"{}\"", type);
  const Json* parts = FindField(component, "processors");
  if (parts == nullptr || !parts->is_array() || depth == kMaxDepth) {
    return InvalidArgument("TOKENIZER_INVALID", "Sequence without \"processors\" or nested past {} levels", kMaxDepth);
  }
  for (const Json& part : *parts) RETURN_IF_ERROR(Read(part, size, depth + 1, frame));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SpecialFrame> ReadPostProcessor(const Json* component, int32_t size) {
  SpecialFrame frame;
  if (component != nullptr) RETURN_IF_ERROR(Annotate(Read(*component, size, 0, frame), "post_processor"));
  return frame;
}

}  // namespace qamserve
