// The server's log: one JSON object a line on stderr, written by spdlog, with time, level, event, instance and fields.
// Fields name things and carry numbers and reasons; prompts, generated text and secrets never stand in them. What they
// name is called alike everywhere: job (its id), request (CallGuard::request_id), trace (32 hex digits), model, key (an
// id), method, reason, message. Thread-safe.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

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
  // The same to `out`, which must outlive it, in place of stderr.
  static absl::StatusOr<std::shared_ptr<Log>> CreateOn(std::ostream& out, std::string_view level);
  // Writes nothing.
  static std::shared_ptr<Log> Silent();
  ~Log();

  // What every line calls this process. Before other threads write.
  void SetInstance(std::string instance) { instance_ = std::move(instance); }

  // Whether Debug writes anything, for those who would make many fields in vain.
  bool debug() const;
  // `event` is a short snake_case name; `fields` an object.
  void Debug(std::string_view event, const Fields& fields = Fields::object());
  void Info(std::string_view event, const Fields& fields = Fields::object());
  void Warning(std::string_view event, const Fields& fields = Fields::object());
  void Error(std::string_view event, const Fields& fields = Fields::object());

 private:
  explicit Log(std::shared_ptr<spdlog::logger> logger);
  void Write(int level, std::string_view name, std::string_view event, const Fields& fields);
  std::shared_ptr<spdlog::logger> logger_;
  std::string instance_;
};

}  // namespace qamserve
