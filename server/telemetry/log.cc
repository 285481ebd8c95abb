#include "server/telemetry/log.h"

#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <array>
#include <string>
#include <utility>

namespace qamserve {
namespace {

struct Level {
  std::string_view name;
  spdlog::level::level_enum level;
};
constexpr std::array<Level, 5> kLevels = {{{"debug", spdlog::level::debug},
                                           {"info", spdlog::level::info},
                                           {"warning", spdlog::level::warn},
                                           {"error", spdlog::level::err},
                                           {"off", spdlog::level::off}}};

absl::StatusOr<spdlog::level::level_enum> LevelOf(std::string_view name) {
  for (const Level& known : kLevels) {
    if (known.name == name) return known.level;
  }
  return InvalidArgument("LOG_LEVEL", "log level \"{}\" is none of debug, info, warning, error, off", name);
}

std::shared_ptr<spdlog::logger> MakeLogger(std::shared_ptr<spdlog::sinks::sink> sink, spdlog::level::level_enum level) {
  auto logger = std::make_shared<spdlog::logger>("qamserve", std::move(sink));
  logger->set_pattern("%v");
  logger->set_level(level);
  logger->flush_on(spdlog::level::debug);
  return logger;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Log>> Log::Create(std::string_view level) {
  ASSIGN_OR_RETURN(const spdlog::level::level_enum known, LevelOf(level));
  return std::shared_ptr<Log>(new Log(MakeLogger(std::make_shared<spdlog::sinks::stderr_sink_mt>(), known)));
}

absl::StatusOr<std::shared_ptr<Log>> Log::CreateOn(std::ostream& out, std::string_view level) {
  ASSIGN_OR_RETURN(const spdlog::level::level_enum known, LevelOf(level));
  return std::shared_ptr<Log>(new Log(MakeLogger(std::make_shared<spdlog::sinks::ostream_sink_mt>(out), known)));
}

std::shared_ptr<Log> Log::Silent() {
  return std::shared_ptr<Log>(new Log(MakeLogger(std::make_shared<spdlog::sinks::null_sink_mt>(), spdlog::level::off)));
}

Log::Log(std::shared_ptr<spdlog::logger> logger) : logger_(std::move(logger)) {}
Log::~Log() = default;

bool Log::debug() const { return logger_->should_log(spdlog::level::debug); }

void Log::Debug(std::string_view event, const Fields& fields) { Write(spdlog::level::debug, "debug", event, fields); }
void Log::Info(std::string_view event, const Fields& fields) { Write(spdlog::level::info, "info", event, fields); }
void Log::Warning(std::string_view event, const Fields& fields) {
  Write(spdlog::level::warn, "warning", event, fields);
}
void Log::Error(std::string_view event, const Fields& fields) { Write(spdlog::level::err, "error", event, fields); }

void Log::Write(int level, std::string_view name, std::string_view event, const Fields& fields) {
  const auto spd_level = static_cast<spdlog::level::level_enum>(level);
  if (!logger_->should_log(spd_level)) return;
  nlohmann::ordered_json line;
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  line["level"] = std::string(name);
  line["event"] = std::string(event);
  if (!instance_.empty()) line["instance"] = instance_;
  if (fields.is_object()) {
    for (const auto& [key, value] : fields.items()) line[key] = value;
  }
  // Messages may quote hostile input; bytes that are not UTF-8 must not make dump() throw.
  const std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  logger_->log(spd_level, spdlog::string_view_t(text.data(), text.size()));
}

}  // namespace qamserve
