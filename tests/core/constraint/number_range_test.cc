#include "core/constraint/number_range.h"

#include <cmath>

#include "core/base/rng.h"
#include "tests/core/constraint/constraint_testing.h"

namespace qamserve {
namespace {

std::string Bounded(const char* type, const std::string& low, bool low_exclusive, const std::string& high,
                    bool high_exclusive) {
  std::string text = fmt::format(R"({{"type": "{}")", type);
  if (!low.empty()) text += fmt::format(R"(, "{}": {})", low_exclusive ? "exclusiveMinimum" : "minimum", low);
  if (!high.empty()) text += fmt::format(R"(, "{}": {})", high_exclusive ? "exclusiveMaximum" : "maximum", high);
  return text + "}";
}

TEST(NumberRangeTest, IntegersAreExact) {
  Rng rng(1);
  for (int i = 0; i < 60; ++i) {
    const int64_t span = i < 30 ? 30 : 3000;
    const int64_t low = static_cast<int64_t>(rng.NextU64() % (2 * span)) - span;
    const int64_t high = low + static_cast<int64_t>(rng.NextU64() % span);
    const Compiled compiled(ConstraintKind::kJsonSchema,
                            Bounded("integer", std::to_string(low), false, std::to_string(high), false));
    for (int64_t value = low - 120; value <= high + 120; ++value) {
      ASSERT_EQ(compiled.Matches(std::to_string(value)), low <= value && value <= high)
          << low << " " << high << " " << value;
    }
    for (const char* text : {"-0", "00", "01", "-01", "1.0", ""}) EXPECT_FALSE(compiled.Matches(text)) << text;
  }
}

TEST(NumberRangeTest, IntegersAtTheEdges) {
  const auto matches = [](const std::string& schema, const char* text) {
    return Compiled(ConstraintKind::kJsonSchema, schema).Matches(text);
  };
  const std::string all = Bounded("integer", "-9223372036854775808", false, "9223372036854775807", false);
  EXPECT_TRUE(matches(all, "9223372036854775807"));
  EXPECT_FALSE(matches(all, "9223372036854775808"));
  EXPECT_TRUE(matches(all, "-9223372036854775808"));
  EXPECT_FALSE(matches(all, "-9223372036854775809"));
  EXPECT_TRUE(matches(Bounded("integer", "1000000000000000", false, "", false), "9223372036854775807"));
  EXPECT_TRUE(matches(Bounded("integer", "", false, "-1000000000000000", false), "-9223372036854775808"));
  EXPECT_FALSE(matches(Bounded("integer", "", false, "-1000000000000000", false), "-1"));
  EXPECT_TRUE(matches(Bounded("integer", "0.5", false, "2.5", true), "1"));
  EXPECT_TRUE(matches(Bounded("integer", "0.5", true, "2.5", true), "2"));
  EXPECT_FALSE(matches(Bounded("integer", "0.5", false, "2.5", false), "3"));
  EXPECT_FALSE(matches(Bounded("integer", "1", true, "3", true), "1"));
  EXPECT_TRUE(matches(Bounded("integer", "1", true, "3", true), "2"));
  EXPECT_FALSE(matches(Bounded("integer", "1", true, "3", true), "3"));
  EXPECT_TRUE(matches(Bounded("integer", "0", false, "", false), "0"));
  EXPECT_FALSE(matches(Bounded("integer", "0", false, "", false), "-1"));
}

// Every text of a small alphabet, judged by its value.
TEST(NumberRangeTest, DecimalsAreWithinTheirBounds) {
  std::vector<std::string> texts;
  for (int whole = 0; whole <= 12; ++whole) {
    for (const char* fraction :
         {"", ".0", ".5", ".50", ".25", ".249", ".251", ".000", ".001", ".999", ".3", ".30000000000001", ".7"}) {
      texts.push_back(std::to_string(whole) + fraction);
      texts.push_back("-" + texts.back());
    }
  }
  const char* const kBounds[] = {"",     "-11", "-3.25", "-1",  "-0.5", "0",  "0.001",
                                 "0.25", "0.3", "1",     "2.5", "2.75", "10", "10.5"};
  for (const char* low : kBounds) {
    for (const char* high : kBounds) {
      const double from = *low != 0 ? std::stod(low) : -INFINITY;
      const double to = *high != 0 ? std::stod(high) : INFINITY;
      for (const int exclusive : {0, 1, 2, 3}) {
        const bool low_exclusive = (exclusive & 1) != 0, high_exclusive = (exclusive & 2) != 0;
        const std::string schema = Bounded("number", low, low_exclusive, high, high_exclusive);
        const auto compiled = CompileWith(ConstraintKind::kJsonSchema, schema, SmallTrie());
        if (from > to || (from == to && (low_exclusive || high_exclusive))) {
          EXPECT_EQ(ReasonOf(compiled.status()), "CONSTRAINT_INVALID") << schema;
          continue;
        }
        ASSERT_TRUE(compiled.ok()) << schema << MessageOf(compiled.status());
        for (const std::string& text : texts) {
          const double value = std::stod(text);
          bool inside = (low_exclusive ? value > from : value >= from) && (high_exclusive ? value < to : value <= to);
          // Zero has no sign where nothing below it is inside.
          if (value == 0 && text[0] == '-' && from >= 0) inside = false;
          const bool matches = *(*compiled)->Matches(text);
          // Beyond an exclusive bound fewer digits are written.
          if (text.size() > 12 && exclusive != 0) {
            ASSERT_TRUE(inside || !matches) << schema << " on " << text;
          } else {
            ASSERT_EQ(matches, inside) << schema << " on " << text;
          }
        }
        if (*low == 0 && *high == 0) continue;
        for (const char* text : {"1.", ".5", "1e1", "01", "-", "00.5"})
          EXPECT_FALSE(*(*compiled)->Matches(text)) << schema;
      }
    }
  }
}

}  // namespace
}  // namespace qamserve
