// JSON Schemas (2020-12, as OpenAPI 3.1 has them) of messages, with the comments of the protos. Not thread-safe.
#pragma once

#include <google/protobuf/descriptor.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/base/status.h"

namespace qamserve::rest {

// The order of keys is that of the protos, which is the one to read them in.
using OrderedJson = nlohmann::ordered_json;

// Comments of what the API is made of, by full name. Const after Create.
class Comments {
 public:
  // INTERNAL (API_DESCRIPTORS): the embedded descriptors cannot be read.
  static absl::StatusOr<Comments> Create();
  Comments(Comments&&) noexcept;
  Comments& operator=(Comments&&) noexcept;
  ~Comments();

  // What stands before and behind it, its lines joined to paragraphs; empty if there is nothing.
  std::string Of(const google::protobuf::ServiceDescriptor& service) const;
  std::string Of(const google::protobuf::MethodDescriptor& method) const;
  std::string Of(const google::protobuf::Descriptor& message) const;
  std::string Of(const google::protobuf::FieldDescriptor& field) const;
  std::string Of(const google::protobuf::EnumDescriptor& type) const;
  std::string Of(const google::protobuf::EnumValueDescriptor& value) const;

 private:
  Comments();
  std::unique_ptr<google::protobuf::DescriptorPool> pool_;
};

class Schemas {
 public:
  // `comments` must outlive it.
  explicit Schemas(const Comments& comments) : comments_(comments), all_(OrderedJson::object()) {}

  // {"$ref": "#/components/schemas/Job"}; adds the message and all that it holds.
  OrderedJson Reference(const google::protobuf::Descriptor& message);
  // Of a field's value, with its comment.
  OrderedJson OfField(const google::protobuf::FieldDescriptor& field);
  // What is in "components/schemas".
  const OrderedJson& all() const { return all_; }

 private:
  OrderedJson Reference(const google::protobuf::EnumDescriptor& type);
  OrderedJson OfValue(const google::protobuf::FieldDescriptor& field);

  const Comments& comments_;
  OrderedJson all_;
};

}  // namespace qamserve::rest
