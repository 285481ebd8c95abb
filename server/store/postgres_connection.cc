#include "server/store/postgres_connection.h"

#include <libpq-fe.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "core/base/digest.h"
#include "server/store/postgres_errors.h"

namespace qamserve {
namespace {

// A server that has said nothing for so long after its own limit is taken for lost.
constexpr int64_t kGraceMs = 5'000;
// Of one session; more statements than the store has, so that only made-up ones could reach it.
constexpr size_t kMaxPrepared = 512;
// Types of parameters (pg_type.oid), named so that the server need not guess from the first place where one stands.
constexpr unsigned kInt8Oid = 20;
constexpr unsigned kTextOid = 25;
constexpr unsigned kFloat8Oid = 701;
// 12.0. What is used is in 10 already (identity columns), but nobody looks after that any more.
constexpr int64_t kOldestServer = 120'000;

struct ClearResult {
  void operator()(PGresult* result) const { PQclear(result); }
};
using Result = std::unique_ptr<PGresult, ClearResult>;

class PostgresRow : public SqlRow {
 public:
  PostgresRow(const PGresult* result, int row) : result_(result), row_(row) {}

  int64_t Int() override {
    const std::string_view text = Next();
    if (text == "t") return 1;
    int64_t value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  }
  double Real() override {
    const std::string_view text = Next();
    double value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  }
  std::string Text() override { return std::string(Next()); }
  bool IsNull() const override { return PQgetisnull(result_, row_, column_) != 0; }

 private:
  std::string_view Next() {
    const int column = column_++;
    if (column >= PQnfields(result_)) return {};
    return {PQgetvalue(result_, row_, column), static_cast<size_t>(PQgetlength(result_, row_, column))};
  }

  const PGresult* result_;
  int row_;
  int column_ = 0;
};

// Parameters as libpq takes them: texts with an end, and types.
struct Parameters {
  std::vector<std::string> texts;
  std::vector<Oid> types;
};

absl::StatusOr<Parameters> MakeParameters(std::initializer_list<SqlValue> values) {
  Parameters out;
  out.texts.reserve(values.size());
  out.types.reserve(values.size());
  for (const SqlValue& value : values) {
    if (const auto* integer = std::get_if<int64_t>(&value.get())) {
      out.texts.push_back(fmt::to_string(*integer));
      out.types.push_back(kInt8Oid);
    } else if (const auto* real = std::get_if<double>(&value.get())) {
      out.texts.push_back(fmt::format("{}", *real));
      out.types.push_back(kFloat8Oid);
    } else {
      const auto& text = std::get<std::string_view>(value.get());
      if (text.find('\0') != std::string_view::npos) {
        return InvalidArgument("STORE_VALUE", "a text has a zero byte at {}, which PostgreSQL cannot hold",
                               text.find('\0'));
      }
      out.texts.emplace_back(text);
      out.types.push_back(kTextOid);
    }
  }
  return out;
}

int MillisecondsUntil(SteadyTime deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

}  // namespace

PostgresContext::PostgresContext(PostgresAddress where, PostgresOptions how)
    : address(std::move(where)), options(std::move(how)), stop_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

PostgresContext::~PostgresContext() {
  if (stop_fd >= 0) close(stop_fd);
}

void PostgresContext::Stop() {
  const uint64_t one = 1;
  // It can only fail when the counter is full, and then it is readable, too.
  (void)!write(stop_fd, &one, sizeof one);
}

absl::Status PostgresContext::Error(absl::StatusCode code, std::string_view reason, std::string_view message) const {
  return MakeError(code, reason, fmt::format("metadata store {}: {}", address.shown, message));
}

bool IsLasting(const absl::Status& connect_error) {
  // A server that cannot be written to may be one that takes over in a moment.
  return absl::IsFailedPrecondition(connect_error) && ReasonOf(connect_error) != "STORE_READ_ONLY";
}

absl::StatusOr<std::unique_ptr<PostgresConnection>> PostgresConnection::Open(PostgresContext& context) {
  const size_t hosts = context.address.hosts.size();
  const size_t first = context.preferred_host.load();
  absl::Status error;
  for (size_t i = 0; i < hosts; ++i) {
    const size_t host = (first + i) % hosts;
    std::unique_ptr<PostgresConnection> connection(new PostgresConnection(context));
    absl::Status status = connection->Connect(context.address.hosts[host]);
    if (status.ok()) status = connection->Greet();
    if (status.ok()) {
      context.preferred_host = host;
      return connection;
    }
    // Of several, one that may pass: a host without the database must not hide that another one is starting.
    if (error.ok() || IsLasting(error)) error = std::move(status);
  }
  return error;
}

PostgresConnection::~PostgresConnection() {
  if (connection_ != nullptr) PQfinish(connection_);
}

absl::Status PostgresConnection::Connect(const PostgresAddress::Parameters& parameters) {
  std::vector<const char*> keywords, values;
  keywords.reserve(parameters.size() + 1);
  values.reserve(parameters.size() + 1);
  for (const auto& [keyword, value] : parameters) {
    keywords.push_back(keyword.c_str());
    values.push_back(value.c_str());
  }
  keywords.push_back(nullptr);
  values.push_back(nullptr);
  const SteadyTime deadline = AfterMs(context_.options.connect_timeout_ms);
  connection_ = PQconnectStartParams(keywords.data(), values.data(), 0);
  if (connection_ == nullptr || PQstatus(connection_) == CONNECTION_BAD) return ConnectError();
  PQsetNoticeProcessor(
      connection_, [](void*, const char*) {}, nullptr);
  // With codes in it, errors can be told apart in any language.
  PQsetErrorVerbosity(connection_, PQERRORS_VERBOSE);
  PostgresPollingStatusType state = PGRES_POLLING_WRITING;
  while (state != PGRES_POLLING_OK) {
    const int ready = Poll(state == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline);
    if (ready < 0) return Lost("the store is being closed");
    if (ready == 0) {
      return Lost(fmt::format("no connection within {} ms", context_.options.connect_timeout_ms));
    }
    state = PQconnectPoll(connection_);
    if (state == PGRES_POLLING_FAILED) return ConnectError();
  }
  PQsetErrorVerbosity(connection_, PQERRORS_DEFAULT);
  if (PQsetnonblocking(connection_, 1) != 0) return ConnectError();
  return absl::OkStatus();
}

absl::Status PostgresConnection::ConnectError() const {
  if (connection_ == nullptr) {
    return context_.Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", "there is no memory for a connection");
  }
  const std::string message = PQerrorMessage(connection_);
  const std::string sqlstate = SqlStateOfConnectError(message);
  PostgresErrorClass error = ClassifySqlState(sqlstate);
  if (sqlstate.empty() && PQconnectionNeedsPassword(connection_) != 0) error = ClassifySqlState("28P01");
  return context_.Error(error.code, error.reason, OneLine(message));
}

absl::Status PostgresConnection::Greet() {
  int64_t version = 0;
  bool recovering = false;
  std::string encoding;
  PostgresClock::Sample sample{.asked_us = BootTimeUs()};
  RETURN_IF_ERROR(Send(
                      "SELECT pg_is_in_recovery(), (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,"
                      " current_setting('server_version_num')::bigint, current_setting('server_version'),"
                      " current_setting('server_encoding'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
                      {},
                      [&](SqlRow& row) {
                        recovering = row.Int() != 0;
                        sample.server_start_us = row.Int();
                        version = row.Int();
                        server_version_ = row.Text();
                        encoding = row.Text();
                        sample.server_us = row.Int();
                      },
                      false, false)
                      .status());
  sample.answered_us = BootTimeUs();
  server_version_ = server_version_.substr(0, server_version_.find(' '));
  server_start_us_ = sample.server_start_us;
  if (version < kOldestServer) {
    return context_.Error(absl::StatusCode::kFailedPrecondition, "STORE_VERSION",
                          fmt::format("PostgreSQL {} is too old, 12 is the first that will do", server_version_));
  }
  if (encoding != "UTF8") {
    return context_.Error(absl::StatusCode::kFailedPrecondition, "STORE_ENCODING",
                          fmt::format("the database has the encoding {}, it must be UTF8", encoding));
  }
  if (recovering) {
    return context_.Error(absl::StatusCode::kFailedPrecondition, "STORE_READ_ONLY",
                          "the server is a standby and cannot be written to");
  }
  context_.clock.Add(sample);
  return absl::OkStatus();
}

absl::Status PostgresConnection::SampleClock() {
  PostgresClock::Sample sample{.server_start_us = server_start_us_, .asked_us = BootTimeUs()};
  RETURN_IF_ERROR(Query("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint", {}, [&](SqlRow& row) {
                    sample.server_us = row.Int();
                  }).status());
  sample.answered_us = BootTimeUs();
  context_.clock.Add(sample);
  return absl::OkStatus();
}

absl::Status PostgresConnection::Execute(const std::string& sql) {
  if (PQsendQuery(connection_, sql.c_str()) == 0) return Lost(PQerrorMessage(connection_));
  return Results([](const PGresult*) {});
}

absl::Status PostgresConnection::Commit(const std::string& sql) {
  if (PQsendQuery(connection_, sql.c_str()) == 0) return Lost(PQerrorMessage(connection_));
  std::string done;
  RETURN_IF_ERROR(Results([&](const PGresult* result) { done = PQcmdStatus(const_cast<PGresult*>(result)); }));
  if (done == "COMMIT") return absl::OkStatus();
  return context_.Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE",
                        fmt::format("the server answered {} to COMMIT: the transaction had failed before", done));
}

absl::StatusOr<int64_t> PostgresConnection::Query(const char* sql, std::initializer_list<SqlValue> values,
                                                  absl::FunctionRef<void(SqlRow&)> on_row, bool streaming) {
  return Send(sql, values, on_row, context_.prepare.load(), streaming);
}

absl::StatusOr<int64_t> PostgresConnection::Send(const char* sql, std::initializer_list<SqlValue> values,
                                                 absl::FunctionRef<void(SqlRow&)> on_row, bool prepare,
                                                 bool streaming) {
  ASSIGN_OR_RETURN(const Parameters parameters, MakeParameters(values));
  const int count = static_cast<int>(parameters.texts.size());
  std::vector<const char*> texts;
  texts.reserve(parameters.texts.size());
  for (const std::string& text : parameters.texts) texts.push_back(text.c_str());
  std::string name;
  bool known = false;
  if (prepare) {
    ASSIGN_OR_RETURN(name, Prepare(sql, parameters.types, known));
  }
  const int sent =
      name.empty()
          ? PQsendQueryParams(connection_, sql, count, parameters.types.data(), texts.data(), nullptr, nullptr, 0)
          : PQsendQueryPrepared(connection_, name.c_str(), count, texts.data(), nullptr, nullptr, 0);
  if (sent == 0) return Lost(PQerrorMessage(connection_));
  if (streaming) PQsetSingleRowMode(connection_);
  int64_t changed = 0;
  RETURN_IF_ERROR(Results(
      [&](const PGresult* result) {
        const int rows = PQntuples(result);
        for (int i = 0; i < rows; ++i) {
          PostgresRow row(result, i);
          on_row(row);
        }
        const std::string_view told = PQcmdTuples(const_cast<PGresult*>(result));
        if (!told.empty()) std::from_chars(told.data(), told.data() + told.size(), changed);
      },
      !name.empty(), known));
  return changed;
}

absl::StatusOr<std::string> PostgresConnection::Prepare(const char* sql, const std::vector<unsigned>& types,
                                                        bool& known) {
  const auto it = prepared_.find(std::string_view(sql));
  known = it != prepared_.end();
  if (known) return it->second;
  if (prepared_.size() >= kMaxPrepared) return "";
  // Behind a pooler a session may have statements of other clients: under the same name they have the same text.
  std::string name = "q" + Sha256Hex(fmt::format("{} {}", fmt::join(types, ","), sql)).substr(0, 32);
  if (PQsendPrepare(connection_, name.c_str(), sql, static_cast<int>(types.size()), types.data()) == 0) {
    return Lost(PQerrorMessage(connection_));
  }
  RETURN_IF_ERROR(Results([](const PGresult*) {}, true));
  prepared_.emplace(sql, name);
  return name;
}

absl::Status PostgresConnection::Results(absl::FunctionRef<void(const pg_result*)> on_result, bool prepared,
                                         bool known) {
  const auto deadline = [this] { return AfterMs(context_.options.statement_timeout_ms + kGraceMs); };
  RETURN_IF_ERROR(Flush(deadline()));
  absl::Status error;
  while (true) {
    const SteadyTime until = deadline();
    while (PQisBusy(connection_) != 0) {
      const int ready = Poll(POLLIN, until);
      if (ready < 0) return Lost("the store is being closed");
      if (ready == 0) return Lost("the server does not answer");
      if (PQconsumeInput(connection_) == 0) return Lost(PQerrorMessage(connection_));
    }
    const Result result(PQgetResult(connection_));
    if (result == nullptr) break;
    const ExecStatusType kind = PQresultStatus(result.get());
    if (kind == PGRES_COMMAND_OK || kind == PGRES_TUPLES_OK || kind == PGRES_SINGLE_TUPLE) {
      if (error.ok()) on_result(result.get());
    } else if (error.ok()) {
      error = StatementError(result.get(), prepared, known);
    }
    // What follows is of no interest: the first error says why the session ended.
    if (PQstatus(connection_) == CONNECTION_BAD) lost_ = true;
    if (lost_) break;
  }
  if (lost_ && error.ok()) return Lost(PQerrorMessage(connection_));
  return error;
}

absl::Status PostgresConnection::Flush(SteadyTime deadline) {
  while (true) {
    const int left = PQflush(connection_);
    if (left == 0) return absl::OkStatus();
    if (left < 0) return Lost(PQerrorMessage(connection_));
    const int ready = Poll(POLLIN | POLLOUT, deadline);
    if (ready < 0) return Lost("the store is being closed");
    if (ready == 0) return Lost("the server takes nothing");
    // A server that has much to say may take nothing before it was heard.
    if ((ready & POLLIN) != 0 && PQconsumeInput(connection_) == 0) return Lost(PQerrorMessage(connection_));
  }
}

int PostgresConnection::Poll(int events, SteadyTime deadline) {
  while (true) {
    pollfd fds[2] = {{.fd = PQsocket(connection_), .events = static_cast<short>(events), .revents = 0},
                     {.fd = context_.stop_fd, .events = POLLIN, .revents = 0}};
    const int count = poll(fds, 2, MillisecondsUntil(deadline));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 || fds[1].revents != 0) return -1;
    if (fds[0].revents != 0) return fds[0].revents;
    if (std::chrono::steady_clock::now() >= deadline) return 0;
  }
}

absl::Status PostgresConnection::Wait(SteadyTime until) {
  const int ready = Poll(POLLIN, until);
  if (ready < 0) return Lost("the store is being closed");
  if (ready > 0 && PQconsumeInput(connection_) == 0) return Lost(PQerrorMessage(connection_));
  return absl::OkStatus();
}

bool PostgresConnection::TakeNotification(std::string& payload) {
  PGnotify* notification = PQnotifies(connection_);
  if (notification == nullptr) return false;
  payload = notification->extra;
  PQfreemem(notification);
  return true;
}

absl::Status PostgresConnection::StatementError(const pg_result* result, bool prepared, bool known) {
  const auto field = [&](int code) {
    const char* text = PQresultErrorField(result, code);
    return std::string(text == nullptr ? "" : text);
  };
  const std::string sqlstate = field(PG_DIAG_SQLSTATE);
  const std::string severity = field(PG_DIAG_SEVERITY_NONLOCALIZED);
  PostgresErrorClass error = ClassifySqlState(sqlstate);
  std::string message = field(PG_DIAG_MESSAGE_PRIMARY);
  if (message.empty()) message = OneLine(PQresultErrorMessage(result));
  if (!sqlstate.empty()) message += fmt::format(" (SQLSTATE {})", sqlstate);
  if (const std::string constraint = field(PG_DIAG_CONSTRAINT_NAME); !constraint.empty()) {
    message += fmt::format(", constraint {}", constraint);
  }
  const bool forgotten = prepared && (sqlstate == "26000" || sqlstate == "42P05");
  // A change of the schema made the plan of a prepared statement useless; another session makes a new one.
  const bool outdated = known && sqlstate == "0A000";
  if (forgotten && context_.prepare.exchange(false)) {
    context_.options.on_warning(fmt::format(
        "metadata store {}: the server forgets prepared statements, as a pooler between does; they are sent whole now",
        context_.address.shown));
  }
  if (forgotten || outdated) {
    error = ClassifySqlState("40001");
    lost_ = true;
  }
  if (error.session_ends || severity == "FATAL" || severity == "PANIC" || sqlstate.empty()) lost_ = true;
  if (error.reason == "STORE_READ_ONLY") read_only_ = true;
  return context_.Error(error.code, error.reason, message);
}

absl::Status PostgresConnection::Lost(std::string_view message) {
  lost_ = true;
  return context_.Error(absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", OneLine(message));
}

}  // namespace qamserve
