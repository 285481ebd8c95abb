#include "server/http/open_inference/infer_json.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

namespace qamserve::open_inference {
namespace {

using Json = nlohmann::json;
using Tensor = inference::ModelInferRequest::InferInputTensor;
using Parameters = google::protobuf::Map<std::string, inference::InferParameter>;

constexpr int kMaxDepth = 16;
constexpr size_t kMaxTensors = 64;
constexpr char kBinarySize[] = "binary_data_size";
constexpr char kBinary[] = "binary_data";
constexpr char kBinaryOutput[] = "binary_data_output";

template <typename... Args>
absl::Status BadJson(fmt::format_string<Args...> format, Args&&... args) {
  return InvalidArgument("INFER_JSON", format, std::forward<Args>(args)...);
}
absl::Status BadInput(std::string_view name, std::string_view what) {
  return InvalidArgument("INFER_INPUT", "input \"{}\" {}", name, what);
}

absl::StatusOr<Json> Parse(std::string_view text) {
  bool too_deep = false;
  const auto depth = [&](int level, Json::parse_event_t, Json&) {
    too_deep = too_deep || level > kMaxDepth;
    return !too_deep;
  };
  try {
    Json json = Json::parse(text, depth);
    if (too_deep) return BadJson("the body nests deeper than {}", kMaxDepth);
    if (!json.is_object()) return BadJson("the body must be a JSON object");
    return json;
  } catch (const Json::exception& error) {
    return BadJson("the body is not JSON: {}", error.what());
  }
}

absl::StatusOr<std::string> StringAt(const Json& object, const char* name, std::string_view where) {
  const auto found = object.find(name);
  if (found == object.end()) return std::string();
  if (!found->is_string()) return BadJson("{}{} must be a string", where, name);
  return found->get<std::string>();
}

absl::Status SetParameter(const std::string& name, const Json& value, Parameters& parameters) {
  inference::InferParameter parameter;
  if (value.is_boolean()) {
    parameter.set_bool_param(value.get<bool>());
  } else if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
    parameter.set_uint64_param(value.get<uint64_t>());
  } else if (value.is_number_integer()) {
    parameter.set_int64_param(value.get<int64_t>());
  } else if (value.is_number_float()) {
    parameter.set_double_param(value.get<double>());
  } else if (value.is_string()) {
    parameter.set_string_param(value.get<std::string>());
  } else {
    return BadJson("parameters.{} must be a string, a number or a bool", name);
  }
  parameters[name] = std::move(parameter);
  return absl::OkStatus();
}

// The object "parameters" of `object`, or an empty one.
absl::StatusOr<Json> ParametersOf(const Json& object, std::string_view where) {
  const auto found = object.find("parameters");
  if (found == object.end()) return Json::object();
  if (!found->is_object()) return BadJson("{}parameters must be an object", where);
  return *found;
}

// Elements in order, however deep the array that holds them.
void Flatten(const Json& data, std::vector<const Json*>& elements) {
  if (!data.is_array()) {
    elements.push_back(&data);
    return;
  }
  for (const Json& item : data) Flatten(item, elements);
}

template <typename T>
bool AppendInteger(const Json& element, std::string& raw) {
  if (!element.is_number_integer()) return false;
  T value = -1;  // what does not fit is no token id
  const bool negative = !element.is_number_unsigned() && element.get<int64_t>() < 0;
  if (!negative && element.get<uint64_t>() <= uint64_t{std::numeric_limits<T>::max()}) {
    value = static_cast<T>(element.get<uint64_t>());
  }
  raw.append(reinterpret_cast<const char*>(&value), sizeof(value));
  return true;
}

bool AppendBytes(const Json& element, std::string& raw) {
  if (!element.is_string()) return false;
  const auto& text = element.get_ref<const std::string&>();
  const auto size = static_cast<uint32_t>(text.size());
  raw.append(reinterpret_cast<const char*>(&size), sizeof(size));
  raw += text;
  return true;
}

absl::StatusOr<std::string> RawOf(const Json& data, const Tensor& tensor) {
  std::vector<const Json*> elements;
  Flatten(data, elements);
  std::string raw;
  for (size_t i = 0; i < elements.size(); ++i) {
    bool fits = false;
    if (tensor.datatype() == "BYTES") fits = AppendBytes(*elements[i], raw);
    if (tensor.datatype() == "INT32") fits = AppendInteger<int32_t>(*elements[i], raw);
    if (tensor.datatype() == "INT64") fits = AppendInteger<int64_t>(*elements[i], raw);
    if (!fits) {
      return BadInput(tensor.name(),
                      fmt::format("data[{}] is no element of datatype \"{}\" (BYTES, INT32 and INT64 are "
                                  "taken)",
                                  i, tensor.datatype()));
    }
  }
  return raw;
}

// Adds one input; its elements come from "data" or off the front of `binary`.
absl::Status AddInput(const Json& input, std::string_view& binary, inference::ModelInferRequest& request) {
  const std::string where = fmt::format("inputs[{}].", request.inputs_size());
  if (!input.is_object()) return BadJson("{} must be an object", where.substr(0, where.size() - 1));
  Tensor& tensor = *request.add_inputs();
  ASSIGN_OR_RETURN(*tensor.mutable_name(), StringAt(input, "name", where));
  ASSIGN_OR_RETURN(*tensor.mutable_datatype(), StringAt(input, "datatype", where));
  const auto shape = input.find("shape");
  if (shape == input.end() || !shape->is_array()) return BadJson("{}shape must be an array of numbers", where);
  for (const Json& n : *shape) {
    if (!n.is_number_integer()) return BadJson("{}shape must be an array of numbers", where);
    tensor.add_shape(n.get<int64_t>());
  }
  ASSIGN_OR_RETURN(const Json parameters, ParametersOf(input, where));
  const auto size = parameters.find(kBinarySize);
  if (size == parameters.end()) {
    const auto data = input.find("data");
    if (data == input.end()) return BadJson("{}data is missing", where);
    ASSIGN_OR_RETURN(*request.add_raw_input_contents(), RawOf(*data, tensor));
    return absl::OkStatus();
  }
  if (!size->is_number_unsigned() || size->get<uint64_t>() > binary.size()) {
    return BadInput(tensor.name(), fmt::format("announces {} = {}; {} bytes are left behind the JSON", kBinarySize,
                                               size->dump(), binary.size()));
  }
  const size_t bytes = size->get<size_t>();
  request.add_raw_input_contents(std::string(binary.substr(0, bytes)));
  binary.remove_prefix(bytes);
  return absl::OkStatus();
}

absl::Status AddOutput(const Json& output, InferBody& body) {
  const std::string where = fmt::format("outputs[{}].", body.request.outputs_size());
  if (!output.is_object()) return BadJson("{} must be an object", where.substr(0, where.size() - 1));
  ASSIGN_OR_RETURN(std::string name, StringAt(output, "name", where));
  ASSIGN_OR_RETURN(const Json parameters, ParametersOf(output, where));
  const auto binary = parameters.find(kBinary);
  if (binary != parameters.end()) body.binary.emplace_back(name, *binary == true);
  body.request.add_outputs()->set_name(std::move(name));
  return absl::OkStatus();
}

absl::StatusOr<const Json*> ArrayAt(const Json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end()) return nullptr;
  if (!found->is_array() || found->size() > kMaxTensors) {
    return BadJson("{} must be an array of at most {} objects", name, kMaxTensors);
  }
  return &*found;
}

Json ElementsOf(const inference::ModelInferResponse::InferOutputTensor& tensor, std::string_view raw) {
  Json elements = Json::array();
  if (tensor.datatype() != "BYTES") {
    for (; raw.size() >= sizeof(int32_t); raw.remove_prefix(sizeof(int32_t))) {
      int32_t value;
      std::memcpy(&value, raw.data(), sizeof(value));
      elements.push_back(value);
    }
    return elements;
  }
  while (raw.size() >= sizeof(uint32_t)) {
    uint32_t size;
    std::memcpy(&size, raw.data(), sizeof(size));
    raw.remove_prefix(sizeof(size));
    elements.push_back(std::string(raw.substr(0, size)));
    raw.remove_prefix(std::min<size_t>(size, raw.size()));
  }
  return elements;
}

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

bool InferBody::IsBinary(std::string_view output) const {
  for (const auto& [name, is_binary] : binary) {
    if (name == output) return is_binary;
  }
  return binary_by_default;
}

absl::StatusOr<InferBody> ReadInferBody(std::string_view body, std::optional<size_t> json_bytes) {
  const size_t size = json_bytes.value_or(body.size());
  if (size > body.size()) return BadJson("the header announces {} bytes of JSON; the body has {}", size, body.size());
  ASSIGN_OR_RETURN(const Json json, Parse(body.substr(0, size)));
  InferBody result;
  for (const auto& [name, value] : json.items()) {
    if (name != "id" && name != "parameters" && name != "inputs" && name != "outputs") {
      return BadJson("\"{}\" is not known; there are id, parameters, inputs and outputs", name);
    }
  }
  ASSIGN_OR_RETURN(*result.request.mutable_id(), StringAt(json, "id", ""));
  ASSIGN_OR_RETURN(const Json parameters, ParametersOf(json, ""));
  for (const auto& [name, value] : parameters.items()) {
    if (name == kBinaryOutput) {
      result.binary_by_default = value == true;
    } else {
      RETURN_IF_ERROR(SetParameter(name, value, *result.request.mutable_parameters()));
    }
  }
  std::string_view binary = body.substr(size);
  ASSIGN_OR_RETURN(const Json* inputs, ArrayAt(json, "inputs"));
  if (inputs == nullptr) return BadJson("inputs is missing");
  for (const Json& input : *inputs) RETURN_IF_ERROR(AddInput(input, binary, result.request));
  if (!binary.empty()) return BadJson("{} bytes behind the JSON belong to no input", binary.size());
  ASSIGN_OR_RETURN(const Json* outputs, ArrayAt(json, "outputs"));
  if (outputs == nullptr) return result;
  for (const Json& output : *outputs) RETURN_IF_ERROR(AddOutput(output, result));
  return result;
}

InferAnswerBody WriteInferAnswer(const inference::ModelInferResponse& response, const InferBody& asked) {
  Json outputs = Json::array();
  std::string binary;
  for (int i = 0; i < response.outputs_size(); ++i) {
    const auto& tensor = response.outputs(i);
    const std::string& raw = response.raw_output_contents(i);
    Json output = {{"name", tensor.name()},
                   {"datatype", tensor.datatype()},
                   {"shape", std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end())}};
    if (asked.IsBinary(tensor.name())) {
      output["parameters"] = {{kBinarySize, raw.size()}};
      binary += raw;
    } else {
      output["data"] = ElementsOf(tensor, raw);
    }
    outputs.push_back(std::move(output));
  }
  Json json = {{"model_name", response.model_name()}, {"model_version", response.model_version()}};
  if (!response.id().empty()) json["id"] = response.id();
  json["outputs"] = std::move(outputs);
  InferAnswerBody answer{.body = Dump(json), .json_bytes = std::nullopt};
  if (binary.empty()) return answer;
  answer.json_bytes = answer.body.size();
  answer.body += binary;
  return answer;
}

absl::StatusOr<inference::ModelInferRequest> ReadGenerateBody(std::string_view body) {
  ASSIGN_OR_RETURN(const Json json, Parse(body));
  inference::ModelInferRequest request;
  ASSIGN_OR_RETURN(*request.mutable_id(), StringAt(json, "id", ""));
  const auto text = json.find("text_input");
  if (text == json.end() || !text->is_string()) return BadJson("text_input must be given, as a string");
  Tensor& tensor = *request.add_inputs();
  tensor.set_name("text_input");
  tensor.set_datatype("BYTES");
  tensor.add_shape(1);
  tensor.mutable_contents()->add_bytes_contents(text->get<std::string>());
  ASSIGN_OR_RETURN(Json parameters, ParametersOf(json, ""));
  for (const auto& [name, value] : json.items()) {
    if (name != "id" && name != "text_input" && name != "parameters" && name != "stream") parameters[name] = value;
  }
  for (const auto& [name, value] : parameters.items()) {
    RETURN_IF_ERROR(SetParameter(name, value, *request.mutable_parameters()));
  }
  return request;
}

std::string ErrorBody(std::string_view message) { return Dump({{"error", message}}); }

}  // namespace qamserve::open_inference
