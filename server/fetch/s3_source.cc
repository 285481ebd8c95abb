#include <algorithm>
#include <pugixml.hpp>
#include <utility>

#include "server/fetch/remote_source.h"
#include "server/fetch/s3_url.h"

namespace qamserve {
namespace {

constexpr size_t kMaxPageBytes = size_t{8} << 20;  // of 1,000 objects
constexpr int kMaxPages = 16;
constexpr size_t kMaxNameBytes = 1200;  // a key has at most 1024

absl::Status BadName(const std::string& uri) {
  return InvalidArgument("IMPORT_SOURCE_NAME",
                         "source '{}' must be s3://BUCKET/PREFIX, with a bucket of 3 to 63 lower-case letters, digits, "
                         "'-' and '.'",
                         uri.substr(0, 200));
}

// An ETag of 32 hex digits is the content's MD5; those of objects that came in parts are not.
std::string Md5OfETag(std::string_view etag) {
  if (etag.size() >= 2 && etag.front() == '"') etag = etag.substr(1, etag.size() - 2);
  const bool plain = etag.size() == 32 && etag.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  return plain ? std::string(etag) : std::string();
}

class S3Source final : public RemoteSource {
 public:
  S3Source(const RemoteOptions& options, ObjectName name)
      : endpoint_(options.s3_endpoint),
        key_(options.s3_key),
        object_(std::move(name)),
        http_(options.http),
        name_(fmt::format("s3://{}/{}", object_.bucket, object_.prefix)) {}

  absl::Status List(const std::function<bool()>& cancelled) {
    std::vector<RemoteFile> found;
    std::string token;
    for (int page = 0; page < kMaxPages; ++page) {
      std::map<std::string, std::string> query = {{"delimiter", "/"}, {"list-type", "2"}, {"prefix", FolderPrefix()}};
      if (!token.empty()) query["continuation-token"] = token;
      ASSIGN_OR_RETURN(
          const FetchAnswer answer,
          http_.Get(RequestFor(S3Url(endpoint_, object_.bucket, "", query), name_, cancelled), kMaxPageBytes));
      RETURN_IF_ERROR(ReadPage(answer.body, FolderPrefix(), found, token));
      if (token.empty()) break;
    }
    if (found.empty()) RETURN_IF_ERROR(FindOne(cancelled, found));
    ASSIGN_OR_RETURN(files_, ChooseFiles(std::move(found), name_));
    if (files_.empty()) return NotFound("IMPORT_NOT_FOUND", "{} has no file that a model consists of", name_);
    return absl::OkStatus();
  }

  const std::string& name() const override { return name_; }
  const std::vector<RemoteFile>& files() const override { return files_; }

  absl::Status Read(const RemoteFile& file, uint64_t offset, const std::function<bool()>& cancelled,
                    const HttpClient::Piece& piece) const override {
    const std::string key = is_object_ ? object_.prefix : FolderPrefix() + file.name;
    FetchRequest request =
        RequestFor(S3Url(endpoint_, object_.bucket, key), fmt::format("{} of {}", file.name, name_), cancelled);
    // A range of another version would give a file that never was.
    if (!file.version.empty()) request.headers.push_back("If-Match: " + file.version);
    return http_.GetFrom(request, offset, file.size, piece);
  }

 private:
  std::string FolderPrefix() const { return object_.prefix.empty() ? "" : object_.prefix + "/"; }

  FetchRequest RequestFor(std::string url, std::string what, const std::function<bool()>& cancelled) const {
    FetchRequest request;
    request.url = std::move(url);
    request.signing = &key_;
    request.what = std::move(what);
    request.cancelled = cancelled;
    return request;
  }

  // Adds the objects of a page; `token` is that of the next one, or empty.
  absl::Status ReadPage(const std::string& xml, std::string_view prefix, std::vector<RemoteFile>& found,
                        std::string& token) const {
    pugi::xml_document document;
    const pugi::xml_parse_result parsed = document.load_buffer(xml.data(), xml.size());
    const pugi::xml_node list = document.child("ListBucketResult");
    if (!parsed || !list) {
      return Unavailable("IMPORT_SOURCE", "{}: the store's list of objects cannot be read: {}", name_,
                         parsed ? "it is no ListBucketResult" : parsed.description());
    }
    for (const pugi::xml_node& node : list.children("Contents")) {
      const std::string_view key = node.child_value("Key");
      if (!key.starts_with(prefix) || key.size() == prefix.size()) continue;
      const std::string_view name = key.substr(prefix.size());
      if (name.find('/') != std::string_view::npos) continue;
      RemoteFile file;
      file.name = std::string(name);
      file.size = node.child("Size").text().as_ullong();
      file.version = node.child_value("ETag");
      file.md5 = Md5OfETag(file.version);
      found.push_back(std::move(file));
    }
    token = IsTrue(list.child("IsTruncated")) ? list.child_value("NextContinuationToken") : "";
    return absl::OkStatus();
  }
  static bool IsTrue(const pugi::xml_node& node) { return std::string_view(node.text().get()) == "true"; }

  // The name may be that of one object instead of a folder.
  absl::Status FindOne(const std::function<bool()>& cancelled, std::vector<RemoteFile>& found) {
    const size_t slash = object_.prefix.rfind('/');
    const std::string folder = slash == std::string::npos ? "" : object_.prefix.substr(0, slash + 1);
    const std::string url =
        S3Url(endpoint_, object_.bucket, "", {{"delimiter", "/"}, {"list-type", "2"}, {"prefix", object_.prefix}});
    ASSIGN_OR_RETURN(const FetchAnswer answer, http_.Get(RequestFor(url, name_, cancelled), kMaxPageBytes));
    std::string token;
    RETURN_IF_ERROR(ReadPage(answer.body, folder, found, token));
    std::erase_if(found, [&](const RemoteFile& file) { return folder + file.name != object_.prefix; });
    is_object_ = !found.empty();
    return absl::OkStatus();
  }

  const std::string endpoint_;
  const SigningKey key_;
  const ObjectName object_;
  const HttpClient http_;
  const std::string name_;
  bool is_object_ = false;
  std::vector<RemoteFile> files_;
};

}  // namespace

absl::StatusOr<ObjectName> ParseObjectName(const std::string& uri) {
  constexpr std::string_view kScheme = "s3://";
  if (!uri.starts_with(kScheme) || uri.size() > kMaxNameBytes) return BadName(uri);
  const std::string rest = uri.substr(kScheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  ObjectName name{.bucket = rest.substr(0, slash), .prefix = slash < rest.size() ? rest.substr(slash + 1) : ""};
  const bool plain = std::all_of(name.bucket.begin(), name.bucket.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
  });
  if (name.bucket.size() < 3 || name.bucket.size() > 63 || !plain || name.bucket.front() == '.') return BadName(uri);
  while (!name.prefix.empty() && name.prefix.back() == '/') name.prefix.pop_back();
  if (!name.prefix.empty() && name.prefix.front() == '/') return BadName(uri);
  return name;
}

absl::StatusOr<std::unique_ptr<RemoteSource>> OpenS3Source(const std::string& uri, const RemoteOptions& options,
                                                           const std::function<bool()>& cancelled) {
  ASSIGN_OR_RETURN(ObjectName name, ParseObjectName(uri));
  if (options.s3_endpoint.empty() || options.s3_key.access_key.empty()) {
    return FailedPrecondition("IMPORT_DISABLED",
                              "this server imports from no object store: it needs --s3-endpoint, and AWS_ACCESS_KEY_ID "
                              "and AWS_SECRET_ACCESS_KEY in its environment");
  }
  auto source = std::make_unique<S3Source>(options, std::move(name));
  RETURN_IF_ERROR(source->List(cancelled));
  return std::unique_ptr<RemoteSource>(std::move(source));
}

}  // namespace qamserve
