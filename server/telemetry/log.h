// The server's log: one JSON object a line on stderr, written by spdlog. Fields name things (job, model, checkpoint) and
// carry numbers and reasons; prompts, generated text and secrets never stand in them. Thread-safe.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/base/status.h"

namespace spdlog {
class logger;
}

namespace qamserve {

class Log {
 public:
  using Fields = nlohmann::json;

  // `level` is debug, info, warning, error or off; else INVALID_ARGUMENT (LOG_LEVEL).
  static absl::StatusOr<std::shared_ptr<Log>> Create(std::string_view level);
  // Writes nothing.
  static std::shared_ptr<Log> Silent();
  ~Log();

  // `event` is a short snake_case name; `fields` an object.
  void Debug(std::string_view event, const Fields& fields = Fields::object());
  void Info(std::string_view event, const Fields& fields = Fields::object());
  void Warning(std::string_view event, const Fields& fields = Fields::object());
  void Error(std::string_view event, const Fields& fields = Fields::object());

 private:
  explicit Log(std::shared_ptr<spdlog::logger> logger);
  void Write(int level, std::string_view name, std::string_view event, const Fields& fields);
  std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace qamserve
