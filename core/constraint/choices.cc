#include "core/constraint/choices.h"

#include <string>
#include <utility>
#include <vector>

#include "core/format/json_text.h"

namespace qamserve::constraint {

absl::StatusOr<uint32_t> AddChoices(std::string_view text, Grammar& grammar) {
  const nlohmann::json list = ParseJson(text);
  if (!list.is_array() || list.empty()) {
    return InvalidArgument("CONSTRAINT_INVALID", "choices must be a JSON array of strings, at least one");
  }
  std::vector<std::string> choices;
  choices.reserve(list.size());
  for (const nlohmann::json& choice : list) {
    if (!choice.is_string() || choice.get_ref<const std::string&>().empty()) {
      return InvalidArgument("CONSTRAINT_INVALID", "choice {} is not a string, or an empty one", choices.size());
    }
    choices.push_back(choice.get<std::string>());
  }
  const uint32_t root = grammar.AddRule("the choices");
  grammar.SetRule(root, grammar.OneOf(std::move(choices)));
  return root;
}

}  // namespace qamserve::constraint
