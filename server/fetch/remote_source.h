// Where imports come from: a model hub or an object store, as a list of files that can be read from any byte. Start
// here for server/fetch. Sources are const after Open and thread-safe.
//   hf://ORGANISATION/MODEL[@REVISION][/FILE]   the HTTP protocol of Hugging Face's hub (/api/models, /resolve)
//   s3://BUCKET/PREFIX                          Amazon S3's REST protocol (ListObjectsV2, GetObject), path style
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "server/fetch/http_client.h"

namespace qamserve {

struct RemoteFile {
  std::string name;  // without folders
  uint64_t size = 0;
  // What the source says of the content; at most one is set, none if it says nothing.
  std::string sha256;
  std::string git_sha1;  // of "blob {size}\0" and the content, as git names it
  std::string md5;
  std::string version;  // changes with the content
};

class RemoteSource {
 public:
  virtual ~RemoteSource() = default;
  // What was found, pinned to a version: "hf://org/model@8c31...".
  virtual const std::string& name() const = 0;
  // Files directly in the folder that a model or a text may consist of, sorted by name.
  virtual const std::vector<RemoteFile>& files() const = 0;
  // The bytes of a file from `offset` to its end. The errors of HttpClient.
  virtual absl::Status Read(const RemoteFile& file, uint64_t offset, const std::function<bool()>& cancelled,
                            const HttpClient::Piece& piece) const = 0;
};

struct RemoteOptions {
  std::string hub_endpoint = "https://huggingface.co";  // empty = no imports from a hub
  std::string hub_token;                                // empty = only what everyone may read
  std::string s3_endpoint;                              // "https://HOST[:PORT]"; empty = no imports from a store
  SigningKey s3_key;
  HttpClientOptions http;
};

bool IsRemoteSource(std::string_view uri);
// Lists the files. INVALID_ARGUMENT (IMPORT_SOURCE_NAME) for what is not a name of one of the forms above,
// FAILED_PRECONDITION (IMPORT_DISABLED) names the server option that is missing, INVALID_ARGUMENT (IMPORT_AMBIGUOUS) if
// there are several GGUF files, of which one must be named; UNAVAILABLE (IMPORT_SOURCE) for an answer that makes no
// sense; the errors of HttpClient.
absl::StatusOr<std::unique_ptr<RemoteSource>> OpenRemoteSource(const std::string& uri, const RemoteOptions& options,
                                                               const std::function<bool()>& cancelled);

// --- Parts, for tests ---
struct HubName {
  std::string repository;  // "org/model"
  std::string revision = "main";
  std::string file;  // empty = the whole folder
};
absl::StatusOr<HubName> ParseHubName(const std::string& uri);
struct ObjectName {
  std::string bucket;
  std::string prefix;  // without slashes at its ends
};
absl::StatusOr<ObjectName> ParseObjectName(const std::string& uri);
// Of all files in a folder those that are imported: weights, configuration, tokenizer, licence. With safetensors,
// copies of the weights in other forms ("consolidated", GGUF) are left out.
absl::StatusOr<std::vector<RemoteFile>> ChooseFiles(std::vector<RemoteFile> files, std::string_view source);

// The two kinds; OpenRemoteSource picks.
absl::StatusOr<std::unique_ptr<RemoteSource>> OpenHubSource(const std::string& uri, const RemoteOptions& options,
                                                            const std::function<bool()>& cancelled);
absl::StatusOr<std::unique_ptr<RemoteSource>> OpenS3Source(const std::string& uri, const RemoteOptions& options,
                                                           const std::function<bool()>& cancelled);

}  // namespace qamserve
