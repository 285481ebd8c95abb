#include "server/fetch/remote_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/scripted_http_server.h"

namespace qamserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> NamesOf(const std::vector<RemoteFile>& files) {
  std::vector<std::string> names;
  names.reserve(files.size());
  for (const RemoteFile& file : files) names.push_back(file.name);
  return names;
}

std::vector<RemoteFile> FilesNamed(std::initializer_list<const char*> names) {
  std::vector<RemoteFile> files;
  files.reserve(names.size());
  for (const char* name : names) files.push_back({.name = name});
  return files;
}

TEST(HubNameTest, Forms) {
  HubName name = ParseHubName("hf://org/model").value();
  EXPECT_EQ(name.repository + "|" + name.revision + "|" + name.file, "org/model|main|");
  name = ParseHubName("hf://org/model@refs%2Fpr%2F1").value();
  EXPECT_EQ(name.revision, "refs/pr/1");
  name = ParseHubName("hf://org/model@v1/sub/x.gguf").value();
  EXPECT_EQ(name.revision + "|" + name.file, "v1|sub/x.gguf");
  name = ParseHubName("hf://org/model/x.gguf").value();
  EXPECT_EQ(name.revision + "|" + name.file, "main|x.gguf");
  for (const char* bad : {"hf://", "hf://org", "hf://org/", "hf:///model", "hf://org/model@", "hf://org/model/",
                          "hf://../model", "hf://org/mo del", "hf://org/model/../x", "hf://org/model@a%"}) {
    EXPECT_EQ(ReasonOf(ParseHubName(bad).status()), "IMPORT_SOURCE_NAME") << bad;
  }
}

TEST(ObjectNameTest, Forms) {
  const ObjectName name = ParseObjectName("s3://bucket/a/b/").value();
  EXPECT_EQ(name.bucket + "|" + name.prefix, "bucket|a/b");
  EXPECT_EQ(ParseObjectName("s3://bucket").value().prefix, "");
  for (const char* bad : {"s3://", "s3://ab/x", "s3://Bucket/x", "s3://bucket//x", "s3://.bu/x"}) {
    EXPECT_EQ(ReasonOf(ParseObjectName(bad).status()), "IMPORT_SOURCE_NAME") << bad;
  }
}

TEST(ChooseFilesTest, TakesWhatAModelConsistsOf) {
  EXPECT_THAT(
      NamesOf(ChooseFiles(FilesNamed({"tokenizer.json", "model.safetensors", "pytorch_model.bin", ".gitattributes",
                                      "consolidated.safetensors", "logo.png", "model.gguf", "LICENSE"}),
                          "x")
                  .value()),
      ElementsAre("LICENSE", "model.safetensors", "tokenizer.json"));
  EXPECT_THAT(NamesOf(ChooseFiles(FilesNamed({"m.gguf", "README.md"}), "x").value()),
              ElementsAre("README.md", "m.gguf"));
  const absl::Status several = ChooseFiles(FilesNamed({"a.gguf", "b.gguf"}), "hf://o/m").status();
  EXPECT_EQ(ReasonOf(several), "IMPORT_AMBIGUOUS");
  EXPECT_THAT(MessageOf(several), HasSubstr("a.gguf, b.gguf"));
}

TEST(HubSourceTest, ListsAndReadsAtThePinnedCommit) {
  ScriptedHttpServer hub([](const std::string& head) -> std::string {
    const std::string target = TargetOf(head);
    if (target == "/api/models/org/model/revision/v%2F1?blobs=true") {
      return HttpAnswer(200, R"({"sha": "c0ffee", "siblings": [
        {"rfilename": "model.safetensors", "size": 4, "blobId": "p", "lfs": {"sha256": "ab", "size": 10}},
        {"rfilename": "config.json", "size": 2, "blobId": "1234"},
        {"rfilename": "onnx/model.onnx", "size": 2, "blobId": "5"}]})");
    }
    if (target == "/org/model/resolve/c0ffee/config.json") return HttpAnswer(200, "{}");
    return HttpAnswer(404, "");
  });
  RemoteOptions options;
  options.hub_endpoint = hub.url();
  options.hub_token = "hf_x";
  const auto source = OpenRemoteSource("hf://org/model@v%2F1", options, {}).value();
  EXPECT_EQ(source->name(), "hf://org/model@c0ffee");
  ASSERT_THAT(NamesOf(source->files()), ElementsAre("config.json", "model.safetensors"));
  EXPECT_EQ(source->files()[0].git_sha1, "1234");
  EXPECT_EQ(source->files()[1].sha256, "ab");
  EXPECT_EQ(source->files()[1].size, 10U);
  std::string got;
  ASSERT_TRUE(source
                  ->Read(source->files()[0], 0, {},
                         [&](std::span<const std::byte> bytes) {
                           got.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
                           return absl::OkStatus();
                         })
                  .ok());
  EXPECT_EQ(got, "{}");
  EXPECT_EQ(HeaderOf(hub.requests().back(), "Authorization"), "Bearer hf_x");
}

TEST(HubSourceTest, AnswersThatMakeNoSenseAreErrors) {
  std::string body;
  ScriptedHttpServer hub([&](const std::string&) { return HttpAnswer(200, body); });
  RemoteOptions options;
  options.hub_endpoint = hub.url();
  for (const char* bad : {"", "[]", R"({"sha": "a"})", R"({"sha": 1, "siblings": []})",
                          R"({"sha": "../x", "siblings": []})", R"({"sha": "a", "siblings": [{"rfilename": 3}]})"}) {
    body = bad;
    EXPECT_EQ(ReasonOf(OpenRemoteSource("hf://o/m", options, {}).status()), "IMPORT_SOURCE") << bad;
  }
  body = R"({"sha": "a", "siblings": []})";
  EXPECT_EQ(ReasonOf(OpenRemoteSource("hf://o/m", options, {}).status()), "IMPORT_NOT_FOUND");
  EXPECT_EQ(ReasonOf(OpenRemoteSource("hf://o/m/x.gguf", options, {}).status()), "IMPORT_NOT_FOUND");
}

TEST(S3SourceTest, ReadsPagesAndSigns) {
  ScriptedHttpServer store([](const std::string& head) -> std::string {
    const std::string target = TargetOf(head);
    if (target == "/bucket?delimiter=%2F&list-type=2&prefix=a%2Fb%2F") {
      return HttpAnswer(200, R"(<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
        <IsTruncated>true</IsTruncated><NextContinuationToken>n+/=</NextContinuationToken>
        <Contents><Key>a/b/config.json</Key><Size>2</Size><ETag>"99914b932bd37a50b983c5e7c90ae93b"</ETag></Contents>
        </ListBucketResult>)");
    }
    if (target == "/bucket?continuation-token=n%2B%2F%3D&delimiter=%2F&list-type=2&prefix=a%2Fb%2F") {
      return HttpAnswer(200, R"(<ListBucketResult><IsTruncated>false</IsTruncated>
        <Contents><Key>a/b/model.safetensors</Key><Size>7</Size><ETag>"abc-2"</ETag></Contents>
        <Contents><Key>a/b/</Key><Size>0</Size></Contents></ListBucketResult>)");
    }
    return HttpAnswer(404, "");
  });
  RemoteOptions options;
  options.s3_endpoint = store.url();
  options.s3_key = {.region = "eu-central-1", .access_key = "AK", .secret_key = "SK", .session_token = "TOKEN"};
  const auto source = OpenRemoteSource("s3://bucket/a/b", options, {}).value();
  ASSERT_THAT(NamesOf(source->files()), ElementsAre("config.json", "model.safetensors"));
  EXPECT_EQ(source->files()[0].md5, "99914b932bd37a50b983c5e7c90ae93b");
  EXPECT_EQ(source->files()[1].md5, "");
  EXPECT_EQ(source->files()[1].version, "\"abc-2\"");
  const std::string head = store.requests().front();
  EXPECT_THAT(HeaderOf(head, "Authorization"), HasSubstr("AWS4-HMAC-SHA256 Credential=AK/"));
  EXPECT_THAT(HeaderOf(head, "Authorization"), HasSubstr("/eu-central-1/s3/aws4_request"));
  EXPECT_EQ(HeaderOf(head, "x-amz-security-token"), "TOKEN");
}

TEST(RemoteSourceTest, SaysWhichOptionIsMissing) {
  RemoteOptions options;
  options.hub_endpoint.clear();
  EXPECT_THAT(MessageOf(OpenRemoteSource("hf://o/m", options, {}).status()), HasSubstr("--hub-endpoint"));
  EXPECT_THAT(MessageOf(OpenRemoteSource("s3://bucket/x", options, {}).status()), HasSubstr("--s3-endpoint"));
  EXPECT_EQ(ReasonOf(OpenRemoteSource("ftp://x", options, {}).status()), "IMPORT_SOURCE_NAME");
}

}  // namespace
}  // namespace qamserve
