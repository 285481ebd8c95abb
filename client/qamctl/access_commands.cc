// keys, audit, whoami.
#include <charconv>
#include <optional>

#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

constexpr int kDefaultAuditEvents = 50;
constexpr int kMaxAuditEvents = 100'000;

// As `--scope` names them.
struct ScopeWord {
  const char* word;
  v1::Scope scope;
};
constexpr ScopeWord kScopeWords[] = {{"read", v1::SCOPE_READ},
                                     {"upload", v1::SCOPE_UPLOAD},
                                     {"quantize", v1::SCOPE_QUANTIZE},
                                     {"infer", v1::SCOPE_INFER},
                                     {"admin", v1::SCOPE_ADMIN}};

std::optional<v1::Scope> ScopeOf(const std::string& word) {
  for (const ScopeWord& known : kScopeWords) {
    if (word == known.word) return known.scope;
  }
  return std::nullopt;
}

template <typename Numbers>
std::string WordsOf(const Numbers& scopes) {
  std::string words;
  for (const int scope : scopes) {
    std::string word = std::to_string(scope);  // of a newer server
    for (const ScopeWord& known : kScopeWords) {
      if (scope == known.scope) word = known.word;
    }
    words += words.empty() ? word : "," + word;
  }
  return words;
}

// "90", "90s", "15m", "12h", "30d" in seconds.
std::optional<int64_t> ParseDuration(const std::string& text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  const std::string_view unit(rest, end);
  const int64_t seconds = unit.empty() || unit == "s" ? 1
                          : unit == "m"               ? 60
                          : unit == "h"               ? 3600
                          : unit == "d"               ? 86400
                                                      : 0;
  constexpr int64_t kMaxNumber = int64_t{1} << 40;
  if (error != std::errc() || seconds == 0 || number < 0 || number > kMaxNumber) return std::nullopt;
  return number * seconds;
}

CLI::Option* AddDuration(CLI::App& app, const char* flag, int64_t& seconds, const std::string& help) {
  return app
      .add_option_function<std::string>(
          flag, [&seconds](const std::string& text) { seconds = ParseDuration(text).value_or(0); }, help)
      ->check([](const std::string& text) {
        return ParseDuration(text) ? "" : fmt::format("\"{}\" is not a time such as 90s, 15m, 12h or 30d", text);
      })
      ->type_name("TIME");
}

std::string StateOf(const v1::Key& key) { return WithoutPrefix(v1::KeyState_Name(key.state()), "KEY_STATE_"); }

// "60 requests/min, 2 at a time".
std::string LimitsOf(const v1::KeyLimits& limits) {
  std::vector<std::string> parts;
  if (limits.requests_per_minute() != 0) parts.push_back(fmt::format("{} requests/min", limits.requests_per_minute()));
  if (limits.tokens_per_minute() != 0) parts.push_back(fmt::format("{} tokens/min", limits.tokens_per_minute()));
  if (limits.concurrent_requests() != 0) parts.push_back(fmt::format("{} at a time", limits.concurrent_requests()));
  if (limits.upload_bytes_per_day() != 0) {
    parts.push_back(fmt::format("{}/day up", HumanBytes(static_cast<double>(limits.upload_bytes_per_day()))));
  }
  std::string text;
  for (const std::string& part : parts) text += fmt::format("{}{}", text.empty() ? "" : ", ", part);
  return text;
}

absl::StatusOr<std::string> ResolveKey(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const v1::ListKeysResponse list, session.client().ListKeys());
  std::vector<Candidate> candidates;
  candidates.reserve(static_cast<size_t>(list.keys_size()));
  for (const v1::Key& key : list.keys()) candidates.push_back({key.name(), key.display_name()});
  return PickName("key", text, candidates);
}

void PrintKey(Session& session, const v1::Key& key) {
  session.Print(
      fmt::format("{}  {}  {}", Bold(session.terminal(), key.name()), Shown(key.display_name()), StateOf(key)));
  const auto line = [&](const char* what, const std::string& value) {
    if (!value.empty()) session.Print(fmt::format("  {:<12}{}", what, value));
  };
  line("scopes", WordsOf(key.scopes()));
  line("limits", LimitsOf(key.limits()));
  line("begins", key.hint());
  line("made", HumanTime(key.create_time()));
  line("last used", HumanTime(key.last_used_time()));
  line("expires", HumanTime(key.expire_time()));
  line("old secret", HumanTime(key.previous_secret_expire_time()));
}

// The secret alone on the output, so that it can be written to a file; everything else on the error stream.
absl::Status PrintSecret(Session& session, const v1::NewKey& made) {
  if (session.json()) return session.PrintJson(made);
  session.Note(
      fmt::format("{}  {}  {}", made.key().name(), Shown(made.key().display_name()), WordsOf(made.key().scopes())));
  session.Note("the secret is not stored and not shown again:");
  session.Print(made.secret());
  return absl::OkStatus();
}

struct KeyFlags {
  std::string key;
  std::string display_name;
  std::vector<std::string> scopes;
  v1::KeyLimits limits;
  int64_t ttl_seconds = 0;
  int64_t grace_seconds = 0;
};

absl::Status CreateKey(Session& session, const KeyFlags& flags) {
  v1::CreateKeyRequest request;
  request.set_display_name(flags.display_name);
  for (const std::string& word : flags.scopes) {
    // Checked when the command line was.
    if (const std::optional<v1::Scope> scope = ScopeOf(word)) request.add_scopes(*scope);
  }
  *request.mutable_limits() = flags.limits;
  request.set_ttl_seconds(flags.ttl_seconds);
  ASSIGN_OR_RETURN(const v1::NewKey made, session.client().CreateKey(request));
  return PrintSecret(session, made);
}

absl::Status ListKeys(Session& session) {
  ASSIGN_OR_RETURN(const v1::ListKeysResponse list, session.client().ListKeys());
  if (session.json()) return session.PrintJson(list);
  if (list.keys().empty()) {
    session.Note(
        "no keys: this server answers everyone who reaches it; `qamctl keys create NAME --scope admin` changes "
        "that");
    return absl::OkStatus();
  }
  Table table(
      {{"KEY"}, {"NAME"}, {"SCOPES"}, {"STATE"}, {"BEGINS"}, {"LAST USED (UTC)"}, {"EXPIRES (UTC)"}, {"LIMITS"}});
  for (const v1::Key& key : list.keys()) {
    table.Add({key.name(), key.display_name(), WordsOf(key.scopes()), StateOf(key), key.hint(),
               HumanTime(key.last_used_time()), HumanTime(key.expire_time()), LimitsOf(key.limits())});
  }
  session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status GetKey(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const std::string name, ResolveKey(session, text));
  ASSIGN_OR_RETURN(const v1::Key key, session.client().GetKey(name));
  if (session.json()) return session.PrintJson(key);
  PrintKey(session, key);
  return absl::OkStatus();
}

absl::Status RotateKey(Session& session, const KeyFlags& flags) {
  v1::RotateKeyRequest request;
  ASSIGN_OR_RETURN(*request.mutable_name(), ResolveKey(session, flags.key));
  request.set_grace_seconds(flags.grace_seconds);
  request.set_ttl_seconds(flags.ttl_seconds);
  ASSIGN_OR_RETURN(const v1::NewKey made, session.client().RotateKey(request));
  session.Note(flags.grace_seconds == 0 ? "the old secret has ended"
                                        : fmt::format("the old secret is valid until {} UTC",
                                                      HumanTime(made.key().previous_secret_expire_time())));
  return PrintSecret(session, made);
}

absl::Status RevokeKey(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const std::string name, ResolveKey(session, text));
  ASSIGN_OR_RETURN(const v1::Key key, session.client().RevokeKey(name));
  if (session.json()) return session.PrintJson(key);
  session.Print("revoked " + key.name());
  return absl::OkStatus();
}

absl::Status DeleteKey(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const std::string name, ResolveKey(session, text));
  RETURN_IF_ERROR(session.client().DeleteKey(name));
  if (session.json()) return session.PrintJson(v1::DeleteKeyResponse());
  session.Print("deleted " + name);
  return absl::OkStatus();
}

absl::Status Audit(Session& session, const std::string& key, int limit) {
  std::string name;
  if (!key.empty()) {
    // Of a key that was deleted, the log still tells.
    const absl::StatusOr<std::string> found = ResolveKey(session, key);
    if (!found.ok() && !absl::IsNotFound(found.status())) return found.status();
    name = found.ok() ? *found : key.starts_with("keys/") ? key : "keys/" + key;
  }
  ASSIGN_OR_RETURN(const v1::ListAuditEventsResponse list, session.client().ListAuditEvents(name, limit));
  if (session.json()) return session.PrintJson(list);
  if (list.events().empty()) session.Note("nothing is in the log");
  Table table({{"TIME (UTC)"}, {"KEY"}, {"CALL"}, {"RESOURCE"}, {"RESULT"}, {"FROM"}});
  for (const v1::AuditEvent& event : list.events()) {
    table.Add({HumanTime(event.time()), event.key(), event.method(), ShortName(event.resource()),
               event.reason().empty() ? event.code() : event.reason(), event.peer()});
  }
  if (!list.events().empty()) session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status Whoami(Session& session) {
  ASSIGN_OR_RETURN(const v1::Caller caller, session.client().GetCaller());
  if (session.json()) return session.PrintJson(caller);
  if (!caller.has_key()) {
    session.Print("nobody in particular: this server has no keys, and everyone may do everything");
    return absl::OkStatus();
  }
  PrintKey(session, caller.key());
  const auto left = [&](const char* what, int64_t value, const std::string& shown) {
    if (value >= 0) session.Print(fmt::format("  {:<12}{}", "left", fmt::format("{} {}", shown, what)));
  };
  left("requests this minute", caller.requests_left(), std::to_string(caller.requests_left()));
  left("tokens this minute", caller.tokens_left(), std::to_string(caller.tokens_left()));
  left("to upload today", caller.upload_bytes_left(), HumanBytes(static_cast<double>(caller.upload_bytes_left())));
  return absl::OkStatus();
}

void AddLimits(CLI::App& app, v1::KeyLimits& limits) {
  const auto add = [&](const char* flag, auto setter, const char* help) {
    app.add_option_function<int64_t>(
           flag, [&limits, setter](int64_t value) { (limits.*setter)(static_cast<int32_t>(value)); }, help)
        ->check(CLI::Range(int64_t{0}, int64_t{2'147'483'647}))
        ->type_name("N");
  };
  add("--requests-per-minute", &v1::KeyLimits::set_requests_per_minute, "Most calls a minute (0 = no limit)");
  add("--tokens-per-minute", &v1::KeyLimits::set_tokens_per_minute, "Most tokens a minute, of prompts and answers");
  add("--concurrent-requests", &v1::KeyLimits::set_concurrent_requests, "Most requests to models at a time");
  app.add_option_function<int64_t>(
         "--upload-bytes-per-day", [&limits](int64_t value) { limits.set_upload_bytes_per_day(value); },
         "Most bytes uploaded a day (UTC); 5 GiB is written 5G")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("BYTES");
}

}  // namespace

Action BuildKeys(CLI::App& app) {
  app.require_subcommand(0, 1);
  auto flags = std::make_shared<KeyFlags>();
  const auto add = [&](const char* verb, const char* summary) {
    CLI::App* sub = app.add_subcommand(verb, summary);
    sub->add_option("key", flags->key, "keys/ID, the beginning of its id, or its display name")
        ->required()
        ->check(Utf8())
        ->type_name("KEY");
    return sub;
  };
  CLI::App* create = app.add_subcommand("create", "Make a key and print its secret, this once");
  create->add_option("name", flags->display_name, "What it is for: 1 to 200 bytes")
      ->required()
      ->check(Utf8())
      ->type_name("NAME");
  create
      ->add_option("--scope", flags->scopes,
                   "read, upload, quantize, infer, admin (everything); several with commas. The first key must have "
                   "admin")
      ->required()
      ->delimiter(',')
      ->check([](const std::string& word) {
        return ScopeOf(word) ? "" : fmt::format("\"{}\" is none of read, upload, quantize, infer, admin", word);
      })
      ->type_name("SCOPE,...");
  AddDuration(*create, "--ttl", flags->ttl_seconds, "How long it is valid: 90s, 15m, 12h, 30d (default: for ever)");
  AddLimits(*create, flags->limits);
  CLI::App* list = app.add_subcommand("list", "List keys (the default)");
  CLI::App* get = add("get", "Show a key");
  CLI::App* rotate = add("rotate", "Give a key a new secret and print it, this once");
  AddDuration(*rotate, "--grace", flags->grace_seconds,
              "How long the old secret stays valid, at most 30d (default: 0)");
  AddDuration(*rotate, "--ttl", flags->ttl_seconds, "Let the key expire so long from now (default: as it was)");
  CLI::App* revoke = add("revoke", "Refuse a key from now on");
  CLI::App* remove = add("delete", "Forget a key that is revoked or expired");
  return RunVerb({{create, [flags](Session& session) { return CreateKey(session, *flags); }},
                  {list, ListKeys},
                  {get, [flags](Session& session) { return GetKey(session, flags->key); }},
                  {rotate, [flags](Session& session) { return RotateKey(session, *flags); }},
                  {revoke, [flags](Session& session) { return RevokeKey(session, flags->key); }},
                  {remove, [flags](Session& session) { return DeleteKey(session, flags->key); }}},
                 ListKeys);
}

Action BuildAudit(CLI::App& app) {
  auto key = std::make_shared<std::string>();
  auto limit = std::make_shared<int>(kDefaultAuditEvents);
  app.add_option("--key", *key, "Only of this key")->check(Utf8())->type_name("KEY");
  app.add_option("--limit", *limit, fmt::format("How many, the newest first (default {})", kDefaultAuditEvents))
      ->check(CLI::Range(1, kMaxAuditEvents))
      ->type_name("N");
  return [key, limit](Session& session) { return Audit(session, *key, *limit); };
}

Action BuildWhoami(CLI::App&) { return Whoami; }

}  // namespace qamserve::qamctl
