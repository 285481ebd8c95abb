#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "server/fetch/remote_source.h"

namespace qamserve {
namespace {

constexpr size_t kMaxListingBytes = size_t{32} << 20;
constexpr size_t kMaxNameBytes = 512;

bool IsNamePart(std::string_view part) {
  return !part.empty() && part != "." && part != ".." && std::all_of(part.begin(), part.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  });
}

absl::Status BadName(const std::string& uri) {
  return InvalidArgument("IMPORT_SOURCE_NAME",
                         "source '{}' must be hf://ORGANISATION/MODEL, with @REVISION and /FILE after it if needed",
                         uri.substr(0, 200));
}

// Digest and size of one entry of "siblings"; throws what nlohmann throws.
RemoteFile FileOf(const nlohmann::json& entry) {
  RemoteFile file;
  file.name = entry.at("rfilename").get<std::string>();
  file.size = entry.at("size").get<uint64_t>();
  const auto lfs = entry.find("lfs");
  if (lfs != entry.end() && lfs->is_object()) {
    file.sha256 = lfs->at("sha256").get<std::string>();
    file.size = lfs->at("size").get<uint64_t>();
  } else if (const auto blob = entry.find("blobId"); blob != entry.end() && blob->is_string()) {
    file.git_sha1 = blob->get<std::string>();
  }
  return file;
}

class HubSource final : public RemoteSource {
 public:
  HubSource(const RemoteOptions& options, HubName name)
      : endpoint_(options.hub_endpoint), hub_name_(std::move(name)), http_(options.http) {
    if (!options.hub_token.empty()) headers_.push_back("Authorization: Bearer " + options.hub_token);
  }

  absl::Status List(const std::function<bool()>& cancelled) {
    name_ = fmt::format("hf://{}@{}", hub_name_.repository, hub_name_.revision);
    FetchRequest request = RequestFor(fmt::format("{}/api/models/{}/revision/{}?blobs=true", endpoint_,
                                                  hub_name_.repository, EncodeForUrl(hub_name_.revision, false)),
                                      name_, cancelled);
    ASSIGN_OR_RETURN(const FetchAnswer answer, http_.Get(request, kMaxListingBytes));
    std::vector<RemoteFile> found;
    try {
      const nlohmann::json listing = nlohmann::json::parse(answer.body);
      commit_ = listing.at("sha").get<std::string>();
      for (const nlohmann::json& entry : listing.at("siblings")) {
        const auto& path = entry.at("rfilename").get_ref<const std::string&>();
        const bool wanted = hub_name_.file.empty() ? path.find('/') == std::string::npos : path == hub_name_.file;
        if (wanted) found.push_back(FileOf(entry));
      }
    } catch (const nlohmann::json::exception& error) {
      return Unavailable("IMPORT_SOURCE", "{}: the hub's list of files cannot be read: {}", name_, error.what());
    }
    if (!IsNamePart(commit_)) {
      return Unavailable("IMPORT_SOURCE", "{}: the hub names no commit that this could be read from", name_);
    }
    name_ = fmt::format("hf://{}@{}", hub_name_.repository, commit_);
    if (!hub_name_.file.empty()) return TakeOne(std::move(found));
    ASSIGN_OR_RETURN(files_, ChooseFiles(std::move(found), name_));
    if (files_.empty()) return NotFound("IMPORT_NOT_FOUND", "{} has no file that a model consists of", name_);
    return absl::OkStatus();
  }

  const std::string& name() const override { return name_; }
  const std::vector<RemoteFile>& files() const override { return files_; }

  absl::Status Read(const RemoteFile& file, uint64_t offset, const std::function<bool()>& cancelled,
                    const HttpClient::Piece& piece) const override {
    const std::string& path = hub_name_.file.empty() ? file.name : hub_name_.file;
    const FetchRequest request = RequestFor(
        fmt::format("{}/{}/resolve/{}/{}", endpoint_, hub_name_.repository, commit_, EncodeForUrl(path, true)),
        fmt::format("{} of {}", file.name, name_), cancelled);
    return http_.GetFrom(request, offset, file.size, piece);
  }

 private:
  FetchRequest RequestFor(std::string url, std::string what, const std::function<bool()>& cancelled) const {
    return {.url = std::move(url),
            .headers = headers_,
            .signing = nullptr,
            .what = std::move(what),
            .cancelled = cancelled};
  }

  // The file that the source names; its folders are not part of its name.
  absl::Status TakeOne(std::vector<RemoteFile> found) {
    if (found.size() != 1) return NotFound("IMPORT_NOT_FOUND", "{} has no file '{}'", name_, hub_name_.file);
    found.front().name = hub_name_.file.substr(hub_name_.file.rfind('/') + 1);
    name_ += "/" + hub_name_.file;
    files_ = std::move(found);
    return absl::OkStatus();
  }

  const std::string endpoint_;
  const HubName hub_name_;
  const HttpClient http_;
  std::vector<std::string> headers_;
  std::string commit_;
  std::string name_;
  std::vector<RemoteFile> files_;
};

}  // namespace

absl::StatusOr<HubName> ParseHubName(const std::string& uri) {
  constexpr std::string_view kScheme = "hf://";
  if (!uri.starts_with(kScheme) || uri.size() > kMaxNameBytes) return BadName(uri);
  const std::string_view rest = std::string_view(uri).substr(kScheme.size());
  const size_t slash = rest.find('/');
  if (slash == std::string_view::npos) return BadName(uri);
  const size_t end = rest.find_first_of("@/", slash + 1);
  HubName name;
  name.repository = std::string(rest.substr(0, end));
  if (!IsNamePart(rest.substr(0, slash)) || !IsNamePart(rest.substr(slash + 1, end - slash - 1))) return BadName(uri);
  if (end == std::string_view::npos) return name;
  std::string_view tail = rest.substr(end);
  if (tail.front() == '@') {
    const size_t stop = tail.find('/');
    ASSIGN_OR_RETURN(name.revision, DecodeFromUrl(tail.substr(1, stop == std::string_view::npos ? stop : stop - 1)));
    tail = stop == std::string_view::npos ? std::string_view() : tail.substr(stop);
    if (name.revision.empty()) return BadName(uri);
  }
  if (tail.empty()) return name;
  name.file = std::string(tail.substr(1));
  if (name.file.empty() || name.file.back() == '/' || name.file.find("..") != std::string::npos) return BadName(uri);
  return name;
}

absl::StatusOr<std::unique_ptr<RemoteSource>> OpenHubSource(const std::string& uri, const RemoteOptions& options,
                                                            const std::function<bool()>& cancelled) {
  ASSIGN_OR_RETURN(HubName name, ParseHubName(uri));
  if (options.hub_endpoint.empty()) {
    return FailedPrecondition("IMPORT_DISABLED", "this server imports from no hub (--hub-endpoint is off)");
  }
  auto source = std::make_unique<HubSource>(options, std::move(name));
  RETURN_IF_ERROR(source->List(cancelled));
  return std::unique_ptr<RemoteSource>(std::move(source));
}

}  // namespace qamserve
