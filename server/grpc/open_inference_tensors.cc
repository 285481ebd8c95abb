#include "server/grpc/open_inference_tensors.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

namespace qamserve {
namespace {

using inference::InferParameter;
using Input = inference::ModelInferRequest::InferInputTensor;

constexpr std::string_view kText = "text_input";
constexpr std::string_view kIds = "input_ids";
constexpr std::string_view kSampling = "sampling_parameters";
constexpr std::string_view kOutputs[] = {"text_output", "finish_reason", "output_tokens", "output_ids"};
// A context is far shorter.
constexpr int64_t kMaxElements = int64_t{1} << 20;

absl::Status BadInput(std::string_view name, std::string_view what) {
  return InvalidArgument("INFER_INPUT", "input \"{}\" {}", name, what);
}

// An input and where its elements are.
struct Tensor {
  const Input* input = nullptr;
  const std::string* raw = nullptr;  // null: in input->contents()
  int64_t elements = 0;
};

absl::StatusOr<int64_t> ElementsOf(const Input& input) {
  int64_t elements = 1;
  for (const int64_t n : input.shape()) {
    if (n < 0 || n > kMaxElements || elements * n > kMaxElements) {
      return BadInput(input.name(),
                      fmt::format("has a dimension of {}; a tensor may have 0 to {} elements", n, kMaxElements));
    }
    elements *= n;
  }
  return elements;
}

template <typename T>
absl::StatusOr<std::vector<int32_t>> RawIds(const Tensor& tensor) {
  if (tensor.raw->size() != static_cast<size_t>(tensor.elements) * sizeof(T)) {
    return BadInput(tensor.input->name(),
                    fmt::format("has {} bytes; {} elements of {} have {}", tensor.raw->size(), tensor.elements,
                                tensor.input->datatype(), static_cast<size_t>(tensor.elements) * sizeof(T)));
  }
  std::vector<int32_t> ids(static_cast<size_t>(tensor.elements));
  for (size_t i = 0; i < ids.size(); ++i) {
    T value;
    std::memcpy(&value, tensor.raw->data() + i * sizeof(T), sizeof(T));
    // What is no token id stays none.
    ids[i] = value < 0 || value > std::numeric_limits<int32_t>::max() ? -1 : static_cast<int32_t>(value);
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> IdsOf(const Tensor& tensor) {
  const Input& input = *tensor.input;
  const bool wide = input.datatype() == "INT64";
  if (!wide && input.datatype() != "INT32") {
    return BadInput(input.name(), fmt::format("has datatype \"{}\"; it must be INT32 or INT64", input.datatype()));
  }
  const bool row = input.shape_size() == 1 || (input.shape_size() == 2 && input.shape(0) == 1);
  if (!row) return BadInput(input.name(), "must have the shape [n] or [1, n]: the ids of one prompt");
  if (tensor.raw != nullptr) return wide ? RawIds<int64_t>(tensor) : RawIds<int32_t>(tensor);
  std::vector<int32_t> ids;
  if (wide) {
    for (const int64_t id : input.contents().int64_contents()) {
      ids.push_back(id < 0 || id > std::numeric_limits<int32_t>::max() ? -1 : static_cast<int32_t>(id));
    }
  } else {
    ids.assign(input.contents().int_contents().begin(), input.contents().int_contents().end());
  }
  if (static_cast<int64_t>(ids.size()) != tensor.elements) {
    return BadInput(input.name(), fmt::format("has {} elements, its shape says {}", ids.size(), tensor.elements));
  }
  return ids;
}

absl::StatusOr<std::vector<std::string>> StringsOf(const Tensor& tensor) {
  const Input& input = *tensor.input;
  if (input.datatype() != "BYTES") {
    return BadInput(input.name(), fmt::format("has datatype \"{}\"; it must be BYTES", input.datatype()));
  }
  std::vector<std::string> strings;
  if (tensor.raw == nullptr) {
    strings.assign(input.contents().bytes_contents().begin(), input.contents().bytes_contents().end());
  } else {
    // Each element after its length.
    for (size_t at = 0; at < tensor.raw->size();) {
      uint32_t size = 0;
      if (tensor.raw->size() - at < sizeof(size)) return BadInput(input.name(), "ends in the middle of a length");
      std::memcpy(&size, tensor.raw->data() + at, sizeof(size));
      at += sizeof(size);
      if (tensor.raw->size() - at < size) return BadInput(input.name(), "ends in the middle of an element");
      strings.push_back(tensor.raw->substr(at, size));
      at += size;
    }
  }
  if (static_cast<int64_t>(strings.size()) != tensor.elements) {
    return BadInput(input.name(), fmt::format("has {} elements, its shape says {}", strings.size(), tensor.elements));
  }
  return strings;
}

absl::StatusOr<std::vector<Tensor>> TensorsOf(const inference::ModelInferRequest& request) {
  const int raw = request.raw_input_contents_size();
  if (raw != 0 && raw != request.inputs_size()) {
    return InvalidArgument("INFER_INPUT", "raw_input_contents has {} entries; there are {} inputs", raw,
                           request.inputs_size());
  }
  std::vector<Tensor> tensors;
  for (int i = 0; i < request.inputs_size(); ++i) {
    Tensor tensor{.input = &request.inputs(i), .raw = raw == 0 ? nullptr : &request.raw_input_contents(i)};
    ASSIGN_OR_RETURN(tensor.elements, ElementsOf(request.inputs(i)));
    tensors.push_back(tensor);
  }
  return tensors;
}

std::optional<double> NumberOf(const InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kInt64Param:
      return static_cast<double>(parameter.int64_param());
    case InferParameter::kUint64Param:
      return static_cast<double>(parameter.uint64_param());
    case InferParameter::kDoubleParam:
      return parameter.double_param();
    default:
      return std::nullopt;
  }
}

// Sets the field of that name by reflection, so that every scalar of SamplingParams is a parameter.
absl::Status SetParameter(const std::string& name, const InferParameter& parameter, v1::SamplingParams& params) {
  const auto* field = v1::SamplingParams::descriptor()->FindFieldByName(name);
  const auto* reflection = v1::SamplingParams::GetReflection();
  using Field = google::protobuf::FieldDescriptor;
  const auto bad = [&](std::string_view kind) {
    return InvalidArgument("INFER_PARAMETER", "parameter \"{}\" must be {}", name, kind);
  };
  if (name == "stop") {
    if (parameter.parameter_choice_case() != InferParameter::kStringParam) return bad("a string");
    params.add_stop(parameter.string_param());
    return absl::OkStatus();
  }
  if (field == nullptr || field->is_repeated() || field->cpp_type() == Field::CPPTYPE_MESSAGE) {
    return InvalidArgument("INFER_PARAMETER", "parameter \"{}\" is not known; those of SamplingParams are", name);
  }
  if (field->cpp_type() == Field::CPPTYPE_BOOL) {
    if (parameter.parameter_choice_case() != InferParameter::kBoolParam) return bad("a bool");
    reflection->SetBool(&params, field, parameter.bool_param());
    return absl::OkStatus();
  }
  const std::optional<double> number = NumberOf(parameter);
  if (!number) return bad("a number");
  if (field->cpp_type() == Field::CPPTYPE_DOUBLE) {
    reflection->SetDouble(&params, field, *number);
    return absl::OkStatus();
  }
  if (parameter.parameter_choice_case() == InferParameter::kDoubleParam) return bad("a whole number");
  if (field->cpp_type() == Field::CPPTYPE_UINT64) {
    const bool is_signed = parameter.parameter_choice_case() == InferParameter::kInt64Param;
    if (is_signed && parameter.int64_param() < 0) return bad("0 or more");
    reflection->SetUInt64(&params, field,
                          is_signed ? static_cast<uint64_t>(parameter.int64_param()) : parameter.uint64_param());
    return absl::OkStatus();
  }
  if (std::abs(*number) > std::numeric_limits<int32_t>::max()) return bad("a number of 32 bits");
  reflection->SetInt32(&params, field, static_cast<int32_t>(*number));
  return absl::OkStatus();
}

absl::Status AddSampling(const std::string& json, v1::SamplingParams& params) {
  v1::SamplingParams more;
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &more);
  if (parsed.ok()) {
    params.MergeFrom(more);
    return absl::OkStatus();
  }
  return BadInput(kSampling, fmt::format("is not SamplingParams as JSON: {}", parsed.message().ToString()));
}

template <typename T>
void AppendRaw(std::string& raw, T value) {
  raw.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// One output tensor being written, raw or not.
class Output {
 public:
  Output(inference::ModelInferResponse& response, bool raw, std::string_view name, std::string_view datatype, size_t n)
      : tensor_(*response.add_outputs()), raw_(raw ? response.add_raw_output_contents() : nullptr) {
    tensor_.set_name(std::string(name));
    tensor_.set_datatype(std::string(datatype));
    tensor_.add_shape(static_cast<int64_t>(n));
  }
  void Add(std::string_view text) {
    if (raw_ == nullptr) {
      tensor_.mutable_contents()->add_bytes_contents(std::string(text));
      return;
    }
    AppendRaw(*raw_, static_cast<uint32_t>(text.size()));
    raw_->append(text);
  }
  void Add(int32_t value) {
    if (raw_ == nullptr) {
      tensor_.mutable_contents()->add_int_contents(value);
    } else {
      AppendRaw(*raw_, value);
    }
  }

 private:
  inference::ModelInferResponse::InferOutputTensor& tensor_;
  std::string* const raw_;
};

}  // namespace

absl::StatusOr<std::vector<v1::GenerateRequest>> GenerateRequestsFromInfer(
    const inference::ModelInferRequest& request) {
  v1::GenerateRequest common;
  common.set_model(request.model_name());
  for (const auto& [name, parameter] : request.parameters()) {
    RETURN_IF_ERROR(SetParameter(name, parameter, *common.mutable_params()));
  }
  ASSIGN_OR_RETURN(const std::vector<Tensor> tensors, TensorsOf(request));
  std::optional<std::vector<std::string>> texts;
  std::optional<std::vector<int32_t>> ids;
  for (const Tensor& tensor : tensors) {
    const std::string& name = tensor.input->name();
    if (name == kText) {
      ASSIGN_OR_RETURN(texts, StringsOf(tensor));
    } else if (name == kIds) {
      ASSIGN_OR_RETURN(ids, IdsOf(tensor));
    } else if (name == kSampling) {
      ASSIGN_OR_RETURN(const std::vector<std::string> json, StringsOf(tensor));
      if (json.size() != 1) return BadInput(name, "must have one element");
      RETURN_IF_ERROR(AddSampling(json.front(), *common.mutable_params()));
    } else {
      return BadInput(name, "is not known: there are text_input, input_ids and sampling_parameters");
    }
  }
  if (texts.has_value() == ids.has_value()) {
    return InvalidArgument("INFER_INPUT", "one of the inputs \"{}\" and \"{}\" must be given", kText, kIds);
  }
  std::vector<v1::GenerateRequest> requests;
  if (ids) {
    requests.push_back(std::move(common));
    requests.back().mutable_prompt_tokens()->mutable_ids()->Add(ids->begin(), ids->end());
    return requests;
  }
  if (texts->empty() || texts->size() > kMaxInferPrompts) {
    return BadInput(kText, fmt::format("has {} elements; 1 to {} are possible", texts->size(), kMaxInferPrompts));
  }
  for (std::string& text : *texts) {
    requests.push_back(common);
    requests.back().set_prompt(std::move(text));
  }
  return requests;
}

absl::Status CheckRequestedOutputs(const inference::ModelInferRequest& request) {
  for (const auto& output : request.outputs()) {
    if (std::find(std::begin(kOutputs), std::end(kOutputs), output.name()) != std::end(kOutputs)) continue;
    return InvalidArgument(
        "INFER_OUTPUT",
        "output \"{}\" is not known: there are text_output, finish_reason, output_tokens and output_ids",
        output.name());
  }
  return absl::OkStatus();
}

inference::ModelInferResponse ToInferResponse(const inference::ModelInferRequest& request,
                                              const std::vector<InferAnswer>& answers) {
  inference::ModelInferResponse response;
  response.set_model_name(request.model_name());
  response.set_model_version("1");
  response.set_id(request.id());
  const bool raw = request.raw_input_contents_size() > 0;
  const auto wanted = [&](std::string_view name) {
    return request.outputs().empty() || std::any_of(request.outputs().begin(), request.outputs().end(),
                                                    [&](const auto& output) { return output.name() == name; });
  };
  if (wanted("text_output")) {
    Output output(response, raw, "text_output", "BYTES", answers.size());
    for (const InferAnswer& answer : answers) output.Add(answer.text);
  }
  if (wanted("finish_reason")) {
    Output output(response, raw, "finish_reason", "BYTES", answers.size());
    for (const InferAnswer& answer : answers) output.Add(FinishReasonText(answer.finish_reason));
  }
  if (wanted("output_tokens")) {
    Output output(response, raw, "output_tokens", "INT32", answers.size());
    for (const InferAnswer& answer : answers) output.Add(static_cast<int32_t>(answer.tokens.size()));
  }
  if (answers.size() == 1 && wanted("output_ids")) {
    Output output(response, raw, "output_ids", "INT32", answers.front().tokens.size());
    for (const int32_t id : answers.front().tokens) output.Add(id);
  }
  return response;
}

void DescribeModel(inference::ModelMetadataResponse& metadata) {
  const auto describe = [](auto* tensor, std::string_view name, std::string_view datatype) {
    tensor->set_name(std::string(name));
    tensor->set_datatype(std::string(datatype));
    tensor->add_shape(-1);
  };
  describe(metadata.add_inputs(), kText, "BYTES");
  describe(metadata.add_inputs(), kIds, "INT64");
  describe(metadata.add_inputs(), kSampling, "BYTES");
  describe(metadata.add_outputs(), "text_output", "BYTES");
  describe(metadata.add_outputs(), "finish_reason", "BYTES");
  describe(metadata.add_outputs(), "output_tokens", "INT32");
  describe(metadata.add_outputs(), "output_ids", "INT32");
}

std::string_view FinishReasonText(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    case v1::FINISH_REASON_DEADLINE:
      return "deadline";
    default:
      return "";
  }
}

}  // namespace qamserve
