#include "core/tokenizer/template_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tokenizer/template_text.h"

namespace qamserve {
namespace {

using jinja::statement_ptr;
using jinja::value;

// No identifier, so templates cannot name it.
constexpr const char* kBudgetName = "rendering budget";
// Values within values. Tools may be nested 64 deep, and messages hold them.
constexpr int kMaxValueDepth = 128;
// Of an expression: look-ups and small allocations. An iteration copies the variables of its scope.
constexpr uint64_t kEvaluationWork = 500;
constexpr uint64_t kIterationWork = 10'000;
constexpr uint64_t kValueWork = 50;
// Larger numbers could overflow where the engine adds and multiplies them.
constexpr int64_t kMaxCount = int64_t{1} << 31;
// The engine sorts by std::sort, which up to here needs no order that makes sense.
constexpr size_t kAnyOrder = 16;

struct BudgetValue : jinja::value_t {
  explicit BudgetValue(std::shared_ptr<TemplateBudget> b) : budget(std::move(b)) {}
  std::string type() const override { return "Budget"; }
  jinja::hasher unique_hash() const noexcept override { return jinja::hasher(typeid(*this)); }
  std::shared_ptr<TemplateBudget> budget;

 protected:
  bool equivalent(const jinja::value_t& other) const override { return this == &other; }
};

TemplateBudget& BudgetOf(jinja::context& context) {
  const value found = context.get_val(kBudgetName);
  return *dynamic_cast<const BudgetValue&>(*found).budget;
}

// Of a text: the engine keeps it in parts, which may hold no more than a byte each.
uint64_t BytesOf(const value& v) {
  uint64_t bytes = v->val_str.parts.size() * sizeof(jinja::string_part);
  for (const auto& part : v->val_str.parts) bytes += part.val.size();
  return bytes;
}

// Spends what it takes to walk `v` as a tree, as printing, comparing and freeing it do: what stands in two places
// counts twice, and a circle ends in a refusal. Returns the bytes of text and of lists.
uint64_t SpendWalk(const value& v, TemplateBudget& budget, int depth = 0) {
  if (v == nullptr) return 0;
  if (depth > kMaxValueDepth) {
    budget.Refuse(fmt::format("values are nested more than {} deep, or in a circle", kMaxValueDepth));
  }
  uint64_t bytes = BytesOf(v);
  budget.Spend(kValueWork + bytes);
  bytes += sizeof(value) * (v->val_arr.size() + 2 * v->val_obj.size());
  for (const value& item : v->val_arr) bytes += SpendWalk(item, budget, depth + 1);
  for (const auto& [key, item] : v->val_obj) {
    bytes += SpendWalk(key, budget, depth + 1) + SpendWalk(item, budget, depth + 1);
  }
  if (const auto* function = jinja::cast_val<jinja::value_func>(v)) SpendWalk(function->arg0, budget, depth + 1);
  if (const auto* named = jinja::cast_val<jinja::value_kwarg>(v)) SpendWalk(named->val, budget, depth + 1);
  return bytes;
}

// --- Before a function of the engine runs ---

// The argument called `name`, or else the one at `position`, of those behind the value itself; null if there is none.
const value* FindArgument(const std::vector<value>& args, std::string_view name, size_t position) {
  for (const value& arg : args) {
    const auto* named = jinja::cast_val<jinja::value_kwarg>(arg);
    if (named != nullptr && named->key == name) return &named->val;
  }
  if (position >= args.size() || jinja::is_val<jinja::value_kwarg>(args[position])) return nullptr;
  return &args[position];
}

uint64_t BytesOfArgument(const std::vector<value>& args, std::string_view name, size_t position) {
  const value* arg = FindArgument(args, name, position);
  return arg == nullptr ? 0 : BytesOf(*arg);
}

// A number of things, or of spaces.
uint64_t CountOf(const value& v, TemplateBudget& budget) {
  if (!jinja::is_val<jinja::value_int>(v)) return 0;
  if (v->val_int > kMaxCount || v->val_int < -kMaxCount) {
    budget.Refuse(fmt::format("a count of {}; the limit is {}", v->val_int, kMaxCount));
  }
  return static_cast<uint64_t>(std::max<int64_t>(0, v->val_int));
}

uint64_t Occurrences(const std::string& text, const std::string& word) {
  if (word.empty()) return text.size() + 1;
  uint64_t count = 0;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + word.size())) ++count;
  return count;
}

void SpendRange(const std::vector<value>& args, TemplateBudget& budget) {
  std::vector<int64_t> numbers;
  for (const value& arg : args) {
    CountOf(arg, budget);
    numbers.push_back(jinja::is_val<jinja::value_int>(arg) ? arg->val_int : 0);
  }
  if (numbers.empty()) return;
  const int64_t start = numbers.size() > 1 ? numbers[0] : 0;
  const int64_t stop = numbers.size() > 1 ? numbers[1] : numbers[0];
  const int64_t step = numbers.size() > 2 ? numbers[2] : 1;
  if (step == 0) return;  // the engine says so
  const int64_t count = std::max<int64_t>(0, (stop - start) / step + 1);
  budget.Spend(static_cast<uint64_t>(count) * kValueWork, static_cast<uint64_t>(count) * sizeof(jinja::value_int_t));
}

// Refuses to sort what has no order: a list of numbers and texts, or with a number that is none.
void CheckOrder(const std::vector<value>& keys, TemplateBudget& budget) {
  if (keys.size() <= kAnyOrder) return;
  const auto is_text = [](const value& key) { return jinja::is_val<jinja::value_string>(key); };
  const auto is_number = [](const value& key) {
    return (jinja::is_val<jinja::value_int>(key) || jinja::is_val<jinja::value_float>(key)) &&
           !std::isnan(key->val_flt);
  };
  if (std::all_of(keys.begin(), keys.end(), is_text) || std::all_of(keys.begin(), keys.end(), is_number)) return;
  budget.Refuse("a list of more than 16 values that are neither all numbers nor all texts is sorted");
}

// What a list is sorted by: its items, or one attribute of each.
std::vector<value> SortKeys(const value& list, const value* attribute) {
  if (attribute == nullptr || (*attribute)->is_undefined()) return list->val_arr;
  std::vector<value> keys;
  for (const value& item : list->val_arr) {
    value key = jinja::mk_val<jinja::value_undefined>();
    for (const auto& [name, field] : item->val_obj) {
      if (*name == **attribute) key = field;
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

void CheckSort(const std::string& name, const value& self, const std::vector<value>& args, TemplateBudget& budget) {
  if (name == "sort") CheckOrder(SortKeys(self, FindArgument(args, "attribute", 2)), budget);
  if (name != "dictsort") return;
  std::vector<value> keys;
  std::vector<value> values;
  for (const auto& [key, item] : self->val_obj) {
    keys.push_back(key);
    values.push_back(item);
  }
  const value* by = FindArgument(args, "by", 1);
  CheckOrder(by != nullptr && (*by)->val_str.str() == "value" ? values : keys, budget);
}

// A remainder by 0 or -1 stops the processor.
void CheckDivisor(const value& divisor, TemplateBudget& budget) {
  if (!jinja::is_val<jinja::value_int>(divisor)) return;
  if (divisor->val_int == 0 || divisor->val_int == -1) budget.Refuse("divisibleby 0 or -1");
}

// Filters, methods and tests that do not look into what they are applied to. Templates ask for the length of a whole
// conversation once a message.
constexpr std::string_view kConstantTime[] = {
    "length",  "count",   "first",  "last",    "get",     "defined", "undefined", "none",     "true",    "false",
    "mapping", "boolean", "number", "integer", "default", "d",       "sequence",  "iterable", "callable"};

bool IsIn(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Spends what the function `name` of the engine may take. `self` is what it is applied to, or null.
void SpendCall(const std::string& name, const value& self, const std::vector<value>& args, TemplateBudget& budget) {
  budget.Spend(kEvaluationWork);
  for (const value& arg : args) SpendWalk(arg, budget);
  if (name == "range") return SpendRange(args, budget);
  if (self == nullptr || IsIn(kConstantTime, name)) return;
  const uint64_t bytes = SpendWalk(self, budget);
  const auto spend = [&](uint64_t work, uint64_t made) { budget.Spend(work, made); };
  if (name == "replace" || name == "split") {
    const std::string text = self->val_str.str();
    const uint64_t count = Occurrences(text, args.empty() ? " " : args[0]->val_str.str());
    // The engine moves the rest of the text at each of them.
    spend(count * text.size() / 8, bytes + count * (BytesOfArgument(args, "new", 1) + sizeof(jinja::value_string_t)));
  } else if (name == "join") {
    spend(0, bytes + self->val_arr.size() * BytesOfArgument(args, "d", 0));
  } else if (name == "indent") {
    const value* width = FindArgument(args, "width", 0);
    const uint64_t each = width == nullptr ? 4 : std::max(CountOf(*width, budget), BytesOf(*width));
    spend(0, bytes + (Occurrences(self->val_str.str(), "\n") + 2) * each);
  } else if (name == "tojson") {
    const value* indent = FindArgument(args, "indent", 1);
    if (indent != nullptr && CountOf(*indent, budget) > 64) budget.Refuse("tojson with an indent of more than 64");
    uint64_t separators = 0;
    if (const value* pair = FindArgument(args, "separators", 2)) separators = SpendWalk(*pair, budget);
    if (separators > 256) budget.Refuse("tojson with separators of more than 100 bytes or so");
    // What stands around an item, and escapes, are a small multiple of what it takes itself.
    spend(bytes * 8, bytes * 8);
  } else if (name == "format") {
    uint64_t longest = 0;
    for (const value& arg : args) longest = std::max(longest, SpendWalk(arg, budget));
    spend(0, bytes + Occurrences(self->val_str.str(), "{}") * longest);
  } else if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr") {
    for (size_t i = 0; i + 1 < args.size(); ++i) {
      if (args[i]->val_str.str() == "divisibleby") CheckDivisor(args[i + 1], budget);
    }
  }
  CheckSort(name, self, args, budget);
}

// --- Nodes ---

// Has a value already.
struct Constant : jinja::expression {
  explicit Constant(value v) : constant(std::move(v)) { pos = 0; }
  value execute_impl(jinja::context&) const override { return constant; }
  value constant;
};

statement_ptr Hold(value v) { return std::make_unique<Constant>(std::move(v)); }
jinja::statements Hold(const std::vector<value>& values) {
  jinja::statements held;
  for (const value& v : values) held.push_back(Hold(v));
  return held;
}

std::vector<value> Evaluate(const jinja::statements& nodes, jinja::context& context) {
  std::vector<value> values;
  for (const statement_ptr& node : nodes) values.push_back(node->execute(context));
  return values;
}

// Spends what the value of a node holds. To the engine, whose messages name it, it looks like that node; it calls the
// node's execute_impl, which leaves out a frame of the stack at each level of nesting.
struct Metered : jinja::expression {
  explicit Metered(statement_ptr node) : inner(std::move(node)) { pos = inner->pos; }
  value execute_impl(jinja::context& context) const override {
    value v = inner->execute_impl(context);
    TemplateBudget& budget = BudgetOf(context);
    budget.Spend(kEvaluationWork, SpendWalk(v, budget));
    return v;
  }
  std::string type() const override { return inner->type(); }
  statement_ptr inner;
};

// Text of a value, as Python's str has it. What a text may be more than the value counts as made.
value TextOf(const value& v, TemplateBudget& budget) {
  if (jinja::is_val<jinja::value_string>(v)) return v;
  const uint64_t bytes = SpendWalk(v, budget);
  budget.Spend(kEvaluationWork, 4 * bytes);
  return jinja::mk_val<jinja::value_string>(PythonText(v));
}

// An expression that a template prints. Functions print nothing.
struct Printed : Metered {
  using Metered::Metered;
  value execute_impl(jinja::context& context) const override {
    value v = Metered::execute_impl(context);
    if (v->is_undefined() || jinja::is_val<jinja::value_func>(v)) return v;
    return TextOf(v, BudgetOf(context));
  }
};

// What a loop goes over: its iterations are paid for before they begin.
struct LoopSource : jinja::expression {
  explicit LoopSource(statement_ptr node) : inner(std::move(node)) { pos = inner->pos; }
  value execute_impl(jinja::context& context) const override {
    value v = inner->execute_impl(context);
    BudgetOf(context).Spend(kEvaluationWork + kIterationWork * (v->val_arr.size() + v->val_obj.size()));
    return v;
  }
  std::string type() const override { return inner->type(); }
  statement_ptr inner;
};

// The text of statements.
struct BodyText : jinja::expression {
  BodyText(jinja::statements nodes, size_t position) : body(std::move(nodes)) { pos = position; }
  value execute_impl(jinja::context& context) const override {
    auto parts = jinja::mk_val<jinja::value_array>();
    for (const statement_ptr& node : body) parts->push_back(node->execute(context));
    return jinja::runtime::gather_string_parts(parts);
  }
  jinja::statements body;
};

bool IsText(const value& v) { return jinja::is_val<jinja::value_string>(v); }

struct GuardedBinary : jinja::binary_expression {
  using binary_expression::binary_expression;
  value execute_impl(jinja::context& context) const override {
    // These two do not always look at their right side.
    if (op.value == "and" || op.value == "or") return binary_expression::execute_impl(context);
    value a = left->execute(context);
    value b = right->execute(context);
    TemplateBudget& budget = BudgetOf(context);
    if (op.value == "~") {
      a = TextOf(a, budget);
      b = TextOf(b, budget);
    } else if (op.value == "+" && IsText(a) != IsText(b)) {
      // Python's TypeError, or jinja2's for what is undefined; the engine would print what is no text.
      throw jinja::raised_exception(fmt::format("{} and {} cannot be added", a->type(), b->type()));
    }
    const uint64_t bytes = SpendWalk(a, budget) + SpendWalk(b, budget);
    const bool repeats =
        op.value == "*" && (jinja::is_val<jinja::value_string>(a) || jinja::is_val<jinja::value_string>(b));
    if (repeats) {
      const uint64_t count = std::max(CountOf(a, budget), CountOf(b, budget));
      budget.Spend(count * (bytes + kValueWork), count * (bytes + sizeof(jinja::string_part)));
    } else {
      budget.Spend(kEvaluationWork, bytes);
    }
    return binary_expression(op, Hold(a), Hold(b)).execute_impl(context);
  }
};

// The name of a filter or test and its arguments, evaluated.
struct NamedCall {
  std::string name;
  std::vector<value> args;
  bool has_args = false;

  NamedCall(const statement_ptr& node, jinja::context& context) {
    if (const auto* id = jinja::cast_stmt<jinja::identifier>(node)) name = id->val;
    const auto* call = jinja::cast_stmt<jinja::call_expression>(node);
    if (call == nullptr) return;
    if (const auto* id = jinja::cast_stmt<jinja::identifier>(call->callee)) name = id->val;
    args = Evaluate(call->args, context);
    has_args = true;
  }
  statement_ptr ToNode() const {
    auto id = std::make_unique<jinja::identifier>(name);
    if (!has_args) return id;
    return std::make_unique<jinja::call_expression>(std::move(id), Hold(args));
  }
};

// tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False).
value ToJson(const value& self, const std::vector<value>& args) {
  if (self->is_undefined()) throw jinja::raised_exception("tojson of something undefined");
  const auto flag = [&args](std::string_view name, size_t position) {
    const value* arg = FindArgument(args, name, position);
    return arg != nullptr && (*arg)->as_bool();
  };
  JsonStyle style = {.ensure_ascii = flag("ensure_ascii", 0), .sort_keys = flag("sort_keys", 3)};
  const value* indent = FindArgument(args, "indent", 1);
  if (indent != nullptr && jinja::is_val<jinja::value_int>(*indent)) style.indent = (*indent)->as_int();
  const value* separators = FindArgument(args, "separators", 2);
  if (separators != nullptr && jinja::is_val<jinja::value_array>(*separators) && (*separators)->val_arr.size() == 2) {
    style.item_separator = (*separators)->val_arr[0]->as_string().str();
    style.key_separator = (*separators)->val_arr[1]->as_string().str();
  }
  return jinja::mk_val<jinja::value_string>(JsonText(self, style));
}

struct GuardedFilter : jinja::filter_expression {
  using filter_expression::filter_expression;
  value execute_impl(jinja::context& context) const override {
    const value self = operand->execute(context);
    const NamedCall call(filter, context);
    TemplateBudget& budget = BudgetOf(context);
    SpendCall(call.name, self, call.args, budget);
    if (call.name == "string") return TextOf(self, budget);
    value result = call.name == "tojson" ? ToJson(self, call.args)
                                         : filter_expression(Hold(self), call.ToNode()).execute_impl(context);
    budget.Spend(0, SpendWalk(result, budget));
    return result;
  }
};

struct GuardedTest : jinja::test_expression {
  using test_expression::test_expression;
  value execute_impl(jinja::context& context) const override {
    const value self = operand->execute(context);
    const NamedCall call(test, context);
    TemplateBudget& budget = BudgetOf(context);
    SpendCall(call.name, self, call.args, budget);
    if (call.name == "divisibleby" && !call.args.empty()) CheckDivisor(call.args[0], budget);
    return test_expression(Hold(self), negate, call.ToNode()).execute_impl(context);
  }
};

struct GuardedCall : jinja::call_expression {
  using call_expression::call_expression;
  value execute_impl(jinja::context& context) const override {
    const std::vector<value> values = Evaluate(args, context);
    const value function = callee->execute(context);
    TemplateBudget& budget = BudgetOf(context);
    if (const auto* known = jinja::cast_val<jinja::value_func>(function)) {
      SpendCall(known->name, known->arg0, values, budget);
    }
    value result = call_expression(Hold(function), Hold(values)).execute_impl(context);
    budget.Spend(0, SpendWalk(result, budget));
    return result;
  }
};

// {% call %} runs its function without a call_expression being executed.
struct GuardedCallBlock : jinja::call_statement {
  using call_statement::call_statement;
  value execute_impl(jinja::context& context) const override {
    const auto* node = jinja::cast_stmt<jinja::call_expression>(call);
    if (node == nullptr) return call_statement::execute_impl(context);  // which says so
    const value function = node->callee->execute(context);
    if (const auto* known = jinja::cast_val<jinja::value_func>(function)) {
      SpendCall(known->name, known->arg0, Evaluate(node->args, context), BudgetOf(context));
    }
    return call_statement::execute_impl(context);
  }
};

bool IsNameOrMember(const statement_ptr& node) {
  return jinja::is_stmt<jinja::identifier>(node) || jinja::is_stmt<jinja::member_expression>(node);
}

struct GuardedMember : jinja::member_expression {
  using member_expression::member_expression;
  value execute_impl(jinja::context& context) const override {
    TemplateBudget& budget = BudgetOf(context);
    budget.Spend(kEvaluationWork);
    // An index copies the text or list that it is of. Anything longer than a name paid when it was made.
    if (computed && IsNameOrMember(object)) {
      const value whole = object->execute(context);
      budget.Spend(BytesOf(whole) + whole->val_arr.size() * kValueWork);
    }
    return member_expression::execute_impl(context);
  }
};

struct GuardedSet : jinja::set_statement {
  using set_statement::set_statement;
  value execute_impl(jinja::context& context) const override {
    value result = set_statement::execute_impl(context);
    // A member that was set to what holds it closes a circle.
    const auto* member = jinja::cast_stmt<jinja::member_expression>(assignee);
    if (member != nullptr) SpendWalk(member->object->execute(context), BudgetOf(context));
    return result;
  }
};

// --- Putting them into the tree ---

void Guard(statement_ptr& node);

void Guard(jinja::statements& nodes) {
  for (statement_ptr& node : nodes) Guard(node);
}

// Statements in a row: what each prints is paid for.
void GuardBody(jinja::statements& body) {
  for (statement_ptr& node : body) {
    Guard(node);
    if (dynamic_cast<jinja::expression*>(node.get()) != nullptr) {
      node = std::make_unique<Printed>(std::move(node));
    } else {
      node = std::make_unique<Metered>(std::move(node));
    }
  }
}

// True if `node` is a T, whose parts are then handed to `visit`; what that puts in its place stands where it stood.
template <typename T, typename Visitor>
bool Visit(statement_ptr& node, Visitor visit) {
  T* typed = jinja::cast_stmt<T>(node);
  if (typed == nullptr) return false;
  const size_t pos = node->pos;
  visit(*typed);
  node->pos = pos;
  return true;
}

bool GuardStatement(statement_ptr& node) {
  return Visit<jinja::if_statement>(node,
                                    [](auto& n) {
                                      Guard(n.test);
                                      GuardBody(n.body);
                                      GuardBody(n.alternate);
                                    }) ||
         Visit<jinja::for_statement>(node,
                                     [](auto& n) {
                                       Guard(n.iterable);
                                       // The condition of a loop is seen by its type.
                                       auto* select = jinja::cast_stmt<jinja::select_expression>(n.iterable);
                                       statement_ptr& source = select != nullptr ? select->lhs : n.iterable;
                                       source = std::make_unique<LoopSource>(std::move(source));
                                       GuardBody(n.body);
                                       GuardBody(n.default_block);
                                     }) ||
         Visit<jinja::set_statement>(node,
                                     [&node](auto& n) {
                                       Guard(n.assignee);
                                       Guard(n.val);
                                       if (n.val != nullptr) n.val = std::make_unique<Metered>(std::move(n.val));
                                       GuardBody(n.body);
                                       node = std::make_unique<GuardedSet>(std::move(n.assignee), std::move(n.val),
                                                                           std::move(n.body));
                                     }) ||
         Visit<jinja::macro_statement>(node,
                                       [](auto& n) {
                                         Guard(n.args);
                                         GuardBody(n.body);
                                       }) ||
         Visit<jinja::call_statement>(node,
                                      [&node](auto& n) {
                                        Guard(n.call);
                                        Guard(n.caller_args);
                                        GuardBody(n.body);
                                        node = std::make_unique<GuardedCallBlock>(
                                            std::move(n.call), std::move(n.caller_args), std::move(n.body));
                                      }) ||
         Visit<jinja::filter_statement>(node, [&node](auto& n) {
           Guard(n.filter);
           GuardBody(n.body);
           node = std::make_unique<GuardedFilter>(std::make_unique<BodyText>(std::move(n.body), n.pos),
                                                  std::move(n.filter));
         });
}

// Operators, filters, tests and calls, which become nodes of ours.
bool GuardOperation(statement_ptr& node) {
  return Visit<jinja::binary_expression>(node,
                                         [&node](auto& n) {
                                           Guard(n.left);
                                           Guard(n.right);
                                           node = std::make_unique<GuardedBinary>(std::move(n.op), std::move(n.left),
                                                                                  std::move(n.right));
                                         }) ||
         Visit<jinja::filter_expression>(node,
                                         [&node](auto& n) {
                                           Guard(n.operand);
                                           Guard(n.filter);
                                           node = std::make_unique<GuardedFilter>(std::move(n.operand),
                                                                                  std::move(n.filter));
                                         }) ||
         Visit<jinja::test_expression>(node,
                                       [&node](auto& n) {
                                         Guard(n.operand);
                                         Guard(n.test);
                                         node = std::make_unique<GuardedTest>(std::move(n.operand), n.negate,
                                                                              std::move(n.test));
                                       }) ||
         Visit<jinja::call_expression>(node,
                                       [&node](auto& n) {
                                         Guard(n.callee);
                                         Guard(n.args);
                                         node = std::make_unique<GuardedCall>(std::move(n.callee), std::move(n.args));
                                       }) ||
         Visit<jinja::member_expression>(node, [&node](auto& n) {
           Guard(n.object);
           Guard(n.property);
           node = std::make_unique<GuardedMember>(std::move(n.object), std::move(n.property), n.computed);
         });
}

// What only holds other expressions.
void GuardParts(statement_ptr& node) {
  Visit<jinja::array_literal>(node, [](auto& n) { Guard(n.val); });
  Visit<jinja::tuple_literal>(node, [](auto& n) { Guard(n.val); });
  Visit<jinja::object_literal>(node, [](auto& n) {
    for (auto& [key, item] : n.val) {
      Guard(key);
      Guard(item);
    }
  });
  Visit<jinja::select_expression>(node, [](auto& n) {
    Guard(n.lhs);
    Guard(n.test);
  });
  Visit<jinja::unary_expression>(node, [](auto& n) { Guard(n.argument); });
  Visit<jinja::slice_expression>(node, [](auto& n) {
    Guard(n.start_expr);
    Guard(n.stop_expr);
    Guard(n.step_expr);
  });
  Visit<jinja::keyword_argument_expression>(node, [](auto& n) { Guard(n.val); });
  Visit<jinja::spread_expression>(node, [](auto& n) { Guard(n.argument); });
  Visit<jinja::ternary_expression>(node, [](auto& n) {
    Guard(n.condition);
    Guard(n.true_expr);
    Guard(n.false_expr);
  });
}

void Guard(statement_ptr& node) {
  if (node == nullptr || GuardStatement(node) || GuardOperation(node)) return;
  GuardParts(node);
}

}  // namespace

void TemplateBudget::Spend(uint64_t work, uint64_t bytes) {
  if (work > work_left_) Refuse("it takes too long");
  if (bytes > bytes_left_) Refuse("it makes more than 256 MB of text and lists");
  work_left_ -= work;
  bytes_left_ -= bytes;
}

void TemplateBudget::Refuse(std::string why) {
  if (refusal_.empty()) refusal_ = std::move(why);
  throw jinja::raised_exception(refusal_);
}

void GuardTemplate(jinja::program& program) { GuardBody(program.body); }

void GiveBudget(jinja::context& context, std::shared_ptr<TemplateBudget> budget) {
  context.set_val(kBudgetName, std::make_shared<BudgetValue>(std::move(budget)));
}

}  // namespace qamserve
