// Finds stop strings in text that arrives in pieces, and sends no byte that could belong to one before it is known not
// to. Which bytes are sent does not depend on how the text was cut into pieces. Not thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qamserve {

class StopMatcher {
 public:
  // Empty strings are ignored.
  explicit StopMatcher(const std::vector<std::string>& stops);

  // The text that can be sent now. Once a stop string is complete, stopped() is true, what preceded the string has been
  // sent, and all later text is dropped. Of several strings the one that is complete first counts, then the longest.
  std::string Add(std::string_view text);
  bool stopped() const { return stopped_; }
  // What is held back, for the end of a generation. Nothing after a stop.
  std::string Flush();

 private:
  size_t HeldBytes() const;

  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace qamserve
