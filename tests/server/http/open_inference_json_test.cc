#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/grpc/open_inference_tensors.h"
#include "server/http/open_inference/infer_json.h"

namespace qamserve {
namespace {

using nlohmann::json;
using open_inference::InferBody;
using open_inference::ReadGenerateBody;
using open_inference::ReadInferBody;
using open_inference::WriteInferAnswer;
using testing::ElementsAre;
using testing::HasSubstr;

// The prompts and parameters that a body leads to.
absl::StatusOr<std::vector<v1::GenerateRequest>> RequestsOf(std::string_view body) {
  ASSIGN_OR_RETURN(const InferBody read, ReadInferBody(body, std::nullopt));
  return GenerateRequestsFromInfer(read.request);
}

TEST(InferJsonTest, TextsBecomePrompts) {
  const auto requests =
      RequestsOf(R"({"id": "7", "parameters": {"max_tokens": 5, "temperature": 0.5, "ignore_eos": true},
      "inputs": [{"name": "text_input", "shape": [2, 1], "datatype": "BYTES", "data": [["a"], ["b\u00fc"]]}]})");
  ASSERT_TRUE(requests.ok()) << requests.status();
  ASSERT_EQ(requests->size(), 2U);
  EXPECT_EQ((*requests)[1].prompt(), "bü");
  EXPECT_EQ((*requests)[0].params().max_tokens(), 5);
  EXPECT_EQ((*requests)[0].params().temperature(), 0.5);
  EXPECT_TRUE((*requests)[0].params().ignore_eos());
}

TEST(InferJsonTest, IdsAndSamplingAsJson) {
  const auto requests = RequestsOf(R"({"parameters": {"top_k": 3}, "inputs": [
      {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [5, 6, -7]},
      {"name": "sampling_parameters", "shape": [1], "datatype": "BYTES", "data": ["{\"max_tokens\": 9}"]}]})");
  ASSERT_TRUE(requests.ok()) << requests.status();
  EXPECT_THAT(requests->front().prompt_tokens().ids(), ElementsAre(5, 6, -1));
  EXPECT_EQ(requests->front().params().max_tokens(), 9);
  EXPECT_EQ(requests->front().params().top_k(), 3);
}

TEST(InferJsonTest, BinaryTensorsFollowTheJson) {
  const std::string head = R"({"inputs": [
      {"name": "text_input", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}],
      "outputs": [{"name": "text_output", "parameters": {"binary_data": true}}, {"name": "output_tokens"}]})";
  const std::string body = head + std::string("\x02\0\0\0hi", 6);
  const auto read = ReadInferBody(body, head.size());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(GenerateRequestsFromInfer(read->request).value().front().prompt(), "hi");

  const open_inference::InferAnswerBody answer = WriteInferAnswer(
      ToInferResponse(read->request, {{.text = "yes", .tokens = {1, 2}, .finish_reason = v1::FINISH_REASON_STOP}}),
      *read);
  ASSERT_TRUE(answer.json_bytes.has_value());
  const json parsed = json::parse(answer.body.substr(0, *answer.json_bytes));
  EXPECT_EQ(parsed["outputs"][0]["parameters"]["binary_data_size"], 7);
  EXPECT_EQ(answer.body.substr(*answer.json_bytes), std::string("\x03\0\0\0yes", 7));
  EXPECT_EQ(parsed["outputs"][1]["data"], json({2}));
}

TEST(InferJsonTest, AnswersAsJson) {
  const auto read = ReadInferBody(
      R"({"id": "x", "inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["a"]}]})",
      std::nullopt);
  const open_inference::InferAnswerBody answer = WriteInferAnswer(
      ToInferResponse(read->request, {{.text = "ja", .tokens = {4}, .finish_reason = v1::FINISH_REASON_LENGTH}}),
      *read);
  EXPECT_FALSE(answer.json_bytes.has_value());
  const json parsed = json::parse(answer.body);
  EXPECT_EQ(parsed["id"], "x");
  EXPECT_EQ(parsed["outputs"][0],
            json({{"name", "text_output"}, {"datatype", "BYTES"}, {"shape", {1}}, {"data", {"ja"}}}));
  EXPECT_EQ(parsed["outputs"][1]["data"], json({"length"}));
  EXPECT_EQ(parsed["outputs"][3]["data"], json({4}));
}

TEST(InferJsonTest, BadBodiesNameWhatIsWrong) {
  const auto message = [](std::string_view body) { return MessageOf(RequestsOf(body).status()); };
  EXPECT_THAT(message("{"), HasSubstr("not JSON"));
  EXPECT_THAT(message("[]"), HasSubstr("must be a JSON object"));
  EXPECT_THAT(message(std::string(100'000, '[') + std::string(100'000, ']')), HasSubstr("nests deeper than 16"));
  EXPECT_THAT(message(R"({"inputs": [], "x": 1})"), HasSubstr("\"x\" is not known"));
  EXPECT_THAT(message("{}"), HasSubstr("inputs is missing"));
  EXPECT_THAT(message(R"({"inputs": [{"name": 1}]})"), HasSubstr("inputs[0].name must be a string"));
  EXPECT_THAT(message(R"({"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1]}]})"),
              HasSubstr("inputs[0].data is missing"));
  EXPECT_THAT(message(R"({"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [1]}]})"),
              HasSubstr("data[0] is no element of datatype \"BYTES\""));
  EXPECT_THAT(message(R"({"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [3], "data": ["a"]}]})"),
              HasSubstr("has 1 elements, its shape says 3"));
  EXPECT_THAT(message(R"({"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [-1], "data": ["a"]}]})"),
              HasSubstr("has a dimension of -1"));
  EXPECT_THAT(message(R"({"inputs": [{"name": "other", "datatype": "BYTES", "shape": [1], "data": ["a"]}]})"),
              HasSubstr("input \"other\" is not known"));
  EXPECT_THAT(message(R"({"parameters": {"beams": 3}, "inputs": []})"), HasSubstr("parameter \"beams\" is not known"));
  EXPECT_THAT(message(R"({"parameters": {"max_tokens": 1.5}, "inputs": []})"), HasSubstr("must be a whole number"));
  EXPECT_THAT(message(R"({"parameters": {"stop": 3}, "inputs": []})"), HasSubstr("must be a string"));
  EXPECT_THAT(message(R"({"inputs": []})"), HasSubstr("one of the inputs"));
  EXPECT_THAT(MessageOf(ReadInferBody("{}", 3).status()), HasSubstr("announces 3 bytes"));
  EXPECT_THAT(MessageOf(ReadInferBody(R"({"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1],
                                      "parameters": {"binary_data_size": 9}}]})",
                                      std::nullopt)
                            .status()),
              HasSubstr("0 bytes are left"));
}

TEST(InferJsonTest, RawStringsThatEndTooEarly) {
  inference::ModelInferRequest request;
  auto* input = request.add_inputs();
  input->set_name("text_input");
  input->set_datatype("BYTES");
  input->add_shape(1);
  for (const std::string& raw :
       {std::string("\x02"), std::string("\x02\0\0\0a", 5), std::string("\xff\xff\xff\xff", 4)}) {
    request.clear_raw_input_contents();
    request.add_raw_input_contents(raw);
    EXPECT_EQ(ReasonOf(GenerateRequestsFromInfer(request).status()), "INFER_INPUT");
  }
}

TEST(GenerateJsonTest, TextAndParameters) {
  const auto request =
      ReadGenerateBody(R"({"text_input": "hi", "max_tokens": 4, "parameters": {"stop": "x"}})").value();
  const auto requests = GenerateRequestsFromInfer(request).value();
  EXPECT_EQ(requests.front().prompt(), "hi");
  EXPECT_EQ(requests.front().params().max_tokens(), 4);
  EXPECT_THAT(requests.front().params().stop(), ElementsAre("x"));
  EXPECT_THAT(MessageOf(ReadGenerateBody("{}").status()), HasSubstr("text_input"));
}

}  // namespace
}  // namespace qamserve
