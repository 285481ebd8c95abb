#include "server/http/rest/schemas.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>
#include <google/protobuf/descriptor.pb.h>

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "server/http/rest/embedded.h"

namespace qamserve::rest {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using google::protobuf::MethodDescriptor;
using google::protobuf::OneofDescriptor;
using google::protobuf::ServiceDescriptor;
using google::protobuf::SourceLocation;

// The lines of a comment as paragraphs.
std::string Paragraphs(const std::string& comment) {
  std::string text;
  bool new_paragraph = false;
  for (const absl::string_view raw : absl::StrSplit(comment, '\n')) {
    const absl::string_view line = absl::StripAsciiWhitespace(raw);
    if (line.empty()) {
      new_paragraph = !text.empty();
      continue;
    }
    if (!text.empty()) text += new_paragraph ? "\n\n" : " ";
    new_paragraph = false;
    text.append(line.data(), line.size());
  }
  return text;
}

// `found` is the same thing in the pool that has comments; null = it is not there.
template <typename T>
std::string CommentOf(const T* found) {
  SourceLocation location;
  if (found == nullptr || !found->GetSourceLocation(&location)) return "";
  const std::string before = Paragraphs(location.leading_comments);
  const std::string behind = Paragraphs(location.trailing_comments);
  return before.empty() || behind.empty() ? before + behind : fmt::format("{}\n\n{}", before, behind);
}

// "Job" of "qamserve.v1.Job"; what is not of the API keeps its package.
std::string SchemaName(const std::string& full_name) {
  return std::string(absl::StripPrefix(full_name, "qamserve.v1."));
}

void Describe(std::string description, OrderedJson* json) {
  if (!description.empty()) (*json)["description"] = std::move(description);
}

OrderedJson RefTo(const std::string& full_name) {
  return {{"$ref", fmt::format("#/components/schemas/{}", SchemaName(full_name))}};
}

// Of the messages that have a JSON form of their own.
OrderedJson WellKnown(const Descriptor& message) {
  if (message.name() == "Timestamp") return {{"type", "string"}, {"format", "date-time"}};
  if (message.name() == "Duration") return {{"type", "string"}};
  return OrderedJson::object();  // anything
}

OrderedJson Scalar(FieldDescriptor::CppType type, bool bytes) {
  switch (type) {
    case FieldDescriptor::CPPTYPE_INT32:
      return {{"type", "integer"}, {"format", "int32"}};
    case FieldDescriptor::CPPTYPE_UINT32:
      return {{"type", "integer"}, {"format", "uint32"}, {"minimum", 0}};
    case FieldDescriptor::CPPTYPE_INT64:
      return {{"type", "string"}, {"format", "int64"}};
    case FieldDescriptor::CPPTYPE_UINT64:
      return {{"type", "string"}, {"format", "uint64"}};
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return {{"type", "number"}, {"format", "double"}};
    case FieldDescriptor::CPPTYPE_FLOAT:
      return {{"type", "number"}, {"format", "float"}};
    case FieldDescriptor::CPPTYPE_BOOL:
      return {{"type", "boolean"}};
    default:
      break;
  }
  if (bytes) return {{"type", "string"}, {"contentEncoding", "base64"}};
  return {{"type", "string"}};
}

std::string OneofNote(const Descriptor& message) {
  std::string note;
  for (int i = 0; i < message.real_oneof_decl_count(); ++i) {
    const OneofDescriptor& oneof = *message.oneof_decl(i);
    std::vector<std::string> names;
    names.reserve(static_cast<size_t>(oneof.field_count()));
    for (int k = 0; k < oneof.field_count(); ++k) names.push_back(oneof.field(k)->json_name());
    fmt::format_to(std::back_inserter(note), "{}At most one of {}.", note.empty() ? "" : " ", fmt::join(names, ", "));
  }
  return note;
}

std::string Joined(const std::string& first, const std::string& second) {
  return first.empty() || second.empty() ? first + second : fmt::format("{}\n\n{}", first, second);
}

}  // namespace

Comments::Comments() : pool_(std::make_unique<DescriptorPool>()) {}
Comments::Comments(Comments&&) noexcept = default;
Comments& Comments::operator=(Comments&&) noexcept = default;
Comments::~Comments() = default;

absl::StatusOr<Comments> Comments::Create() {
  const std::string_view bytes = EmbeddedDescriptors();
  FileDescriptorSet set;
  if (!set.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Internal("API_DESCRIPTORS", "the embedded descriptors cannot be read");
  }
  Comments comments;
  for (const FileDescriptorProto& file : set.file()) {
    if (comments.pool_->BuildFile(file) != nullptr) continue;
    return Internal("API_DESCRIPTORS", "the embedded descriptor of {} is not valid", file.name());
  }
  return comments;
}

std::string Comments::Of(const ServiceDescriptor& service) const {
  return CommentOf(pool_->FindServiceByName(service.full_name()));
}
std::string Comments::Of(const MethodDescriptor& method) const {
  return CommentOf(pool_->FindMethodByName(method.full_name()));
}
std::string Comments::Of(const Descriptor& message) const {
  return CommentOf(pool_->FindMessageTypeByName(message.full_name()));
}
std::string Comments::Of(const FieldDescriptor& field) const {
  return CommentOf(pool_->FindFieldByName(field.full_name()));
}
std::string Comments::Of(const EnumDescriptor& type) const {
  return CommentOf(pool_->FindEnumTypeByName(type.full_name()));
}
std::string Comments::Of(const EnumValueDescriptor& value) const {
  return CommentOf(pool_->FindEnumValueByName(value.full_name()));
}

OrderedJson Schemas::Reference(const Descriptor& message) {
  OrderedJson reference = RefTo(message.full_name());
  const std::string name = SchemaName(message.full_name());
  if (all_.contains(name)) return reference;
  all_[name] = OrderedJson::object();  // in its place before what it holds, which may be itself
  OrderedJson properties = OrderedJson::object();
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    properties[field.json_name()] = OfField(field);
  }
  OrderedJson schema = {{"type", "object"}};
  Describe(Joined(comments_.Of(message), OneofNote(message)), &schema);
  schema["properties"] = std::move(properties);
  all_[name] = std::move(schema);
  return reference;
}

OrderedJson Schemas::Reference(const EnumDescriptor& type) {
  OrderedJson reference = RefTo(type.full_name());
  const std::string name = SchemaName(type.full_name());
  if (all_.contains(name)) return reference;
  OrderedJson values = OrderedJson::array();
  std::string description = comments_.Of(type);
  for (int i = 0; i < type.value_count(); ++i) {
    values.push_back(type.value(i)->name());
    const std::string comment = comments_.Of(*type.value(i));
    if (comment.empty()) continue;
    fmt::format_to(std::back_inserter(description), "{}{}: {}", description.empty() ? "" : "\n\n",
                   type.value(i)->name(), comment);
  }
  OrderedJson schema = {{"type", "string"}};
  Describe(std::move(description), &schema);
  schema["enum"] = std::move(values);
  all_[name] = std::move(schema);
  return reference;
}

OrderedJson Schemas::OfValue(const FieldDescriptor& field) {
  if (field.enum_type() != nullptr) return Reference(*field.enum_type());
  if (field.message_type() == nullptr) return Scalar(field.cpp_type(), field.type() == FieldDescriptor::TYPE_BYTES);
  if (field.message_type()->file()->package() == "google.protobuf") return WellKnown(*field.message_type());
  return Reference(*field.message_type());
}

OrderedJson Schemas::OfField(const FieldDescriptor& field) {
  OrderedJson schema;
  if (field.is_map()) {
    schema = {{"type", "object"}, {"additionalProperties", OfValue(*field.message_type()->map_value())}};
  } else if (field.is_repeated()) {
    schema = {{"type", "array"}, {"items", OfValue(field)}};
  } else {
    schema = OfValue(field);
  }
  Describe(comments_.Of(field), &schema);
  return schema;
}

}  // namespace qamserve::rest
