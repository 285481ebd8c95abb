// The page of a study and the plots on it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <regex>
#include <set>

#include "core/evaluate/plot.h"
#include "tests/core/evaluate/study_fixture.h"

namespace qamserve {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Le;
using ::testing::Not;
using ::testing::SizeIs;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// The elements that are still open at the end of a page or closed in the wrong order.
std::vector<std::string> Unbalanced(const std::string& html) {
  std::vector<std::string> open;
  const std::regex tag("<(/?)([a-z][a-z0-9]*)[^>]*?(/?)>");
  for (std::sregex_iterator at(html.begin(), html.end(), tag), end; at != end; ++at) {
    const std::string name = (*at)[2];
    if (name == "meta" || (*at)[3].length() > 0) continue;
    if ((*at)[1].length() == 0) {
      open.push_back(name);
    } else if (!open.empty() && open.back() == name) {
      open.pop_back();
    } else {
      open.push_back("/" + name);
    }
  }
  return open;
}

// What no page may hold whatever the figures are.
void ExpectSound(const std::string& html) {
  EXPECT_THAT(Unbalanced(html), IsEmpty());
  EXPECT_FALSE(std::regex_search(html, std::regex("[^a-z](nan|inf)[^a-z]"))) << "a number that is not finite";
  const std::regex coordinate("(cx|cy|x|y|x1|x2|y1|y2)=\"([^\"]*)\"");
  for (std::sregex_iterator at(html.begin(), html.end(), coordinate), end; at != end; ++at) {
    EXPECT_THAT(std::stod((*at)[2]), AllOf(Ge(0), Le(680))) << at->str();
  }
}

TEST(EscapeHtmlTest, LeavesNothingThatAPageCouldTakeForMarkup) {
  EXPECT_EQ(EscapeHtml("<a href=\"x\" id='y'>&amp;</a>"),
            "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;amp;&lt;/a&gt;");
  EXPECT_EQ(EscapeHtml(std::string("a\0b\tc\x7f", 6)), "a b c ");
  EXPECT_EQ(EscapeHtml("\u00e9 \u2013"), "\u00e9 \u2013");
}

TEST(AxisTicksTest, AreRound) {
  EXPECT_THAT(AxisTicks({}, {3.1, 5.4}), ElementsAre(3, 3.5, 4, 4.5, 5, 5.5));
  EXPECT_THAT(AxisTicks({.whole = true}, {0, 2}), ElementsAre(0, 1, 2));
  EXPECT_THAT(AxisTicks({.whole = true}, {7}), ElementsAre(7, 8));
  EXPECT_THAT(AxisTicks({.log = true}, {0.013, 0.4}), ElementsAre(0.01, 0.02, 0.05, 0.1, 0.2, 0.5));
  EXPECT_THAT(AxisTicks({.log = true}, {0.013, 0.4, 0}), ElementsAre(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5));
  EXPECT_THAT(AxisTicks({.log = true}, {1e-5, 0.9}), ElementsAre(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1));
}

TEST(AxisTicksTest, CoverTheValuesWhateverTheyAre) {
  const std::vector<double> ends = {-1e300, -1e9, -7,        -1e-5, 0,   5e-324, 1e-300,
                                    3e-7,   1,    1.0000001, 2.5,   1e6, 1e15,   1e300};
  for (const double low : ends) {
    for (const double high : ends) {
      if (low > high) continue;
      for (const PlotAxis& axis : {PlotAxis{}, PlotAxis{.log = true}, PlotAxis{.whole = true}}) {
        const std::vector<double> ticks = AxisTicks(axis, {low, high, kNan, kInfinity});
        ASSERT_THAT(ticks, SizeIs(AllOf(Ge(2), Le(20)))) << low << " " << high << " " << axis.log;
        for (size_t i = 1; i < ticks.size(); ++i) ASSERT_LT(ticks[i - 1], ticks[i]) << low << " " << high;
        ASSERT_TRUE(std::isfinite(ticks.front()) && std::isfinite(ticks.back()));
        const double limit = axis.log ? 1e200 : 1e15;
        const double slack = axis.log ? 0 : 1e-9 * (ticks.back() - ticks.front());
        if (high > 0 || !axis.log) {
          EXPECT_GE(ticks.back() + slack, std::min(high, limit)) << low;
        }
        if (low > 0 || !axis.log) {
          EXPECT_LE(ticks.front() - slack, std::max(low, axis.log ? 1e-200 : -1e15)) << high;
        }
      }
    }
  }
}

TEST(StyledSeriesTest, SixtyFourLooksDiffer) {
  std::set<std::pair<int, int>> looks;
  for (size_t i = 0; i < 64; ++i) looks.emplace(StyledSeries(i, "").color, StyledSeries(i, "").marker);
  EXPECT_THAT(looks, SizeIs(64));
}

TEST(PlotSvgTest, PutsValuesWhereTheTicksSay) {
  Plot plot{.title = "t", .x = {.label = "x"}, .y = {.label = "y", .log = true}, .series = {{.name = "s"}}};
  plot.series[0].points = {
      {.x = 3, .y = 0}, {.x = 3, .y = 0.02}, {.x = 5, .y = 1, .low = 0.1, .high = 2}, {.x = kNan, .y = 1}};
  const std::string svg = PlotSvg(plot);
  // The drawing's axes are from 72 to 664 and from 332 up to 14; they are labeled 3 to 5, and 0.005 to 2.
  EXPECT_THAT(svg, HasSubstr("cx=\"72.0\" cy=\"332.0\""));
  EXPECT_THAT(svg, HasSubstr("cx=\"72.0\" cy=\"258.4\""));  // 332 - 318 log 4 / log 400
  EXPECT_THAT(svg, HasSubstr("cx=\"664.0\" cy=\"50.8\""));  // 332 - 318 log 200 / log 400
  EXPECT_THAT(svg, HasSubstr("M664.0 173.0V14.0"));         // 332 - 318 log 20 / log 400, and 14
  EXPECT_THAT(svg, HasSubstr("d=\"M72.0 332.0L72.0 258.4L664.0 50.8\""));
  EXPECT_EQ(Count(svg, "<circle"), 3) << "a point that is not a number was drawn";
  ExpectSound(svg);
}

TEST(StudyPageTest, ShowsEveryRowAndPlot) {
  const Study study = StudyOfTwoModels();
  const std::string html = StudyHtml(study);
  ExpectSound(html);
  // A rate plot and two of layers for each model, and one of all.
  EXPECT_EQ(Count(html, "<figure>"), 7);
  // Each row is in the tables of results and of theory; six pairs are in that of joint and polar; three have a head.
  EXPECT_EQ(Count(html, "<tr>"), 24 + 24 + 6 + 3);
  // Seconds of 24 rows; intervals of 24 points.
  EXPECT_EQ(Count(html, "<td>12.5</td>"), 24);
  EXPECT_EQ(Count(html, "<path class=\"i "), 24);
  EXPECT_THAT(html, HasSubstr("<td>0.3906 (0.3711 to 0.4102)</td><td>39.06 \u00b1 1.95</td><td>90.00</td>"));
  EXPECT_THAT(html, HasSubstr("1.000 (24 rows) over all; 1.000 (12 rows) in Small 135M; 1.000 (12 rows) in Large"));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme:dark"));
  EXPECT_THAT(html, Not(HasSubstr("http")));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
}

TEST(StudyPageTest, LayersOfTheRateThatMethodsShareAreShown) {
  Study study;
  for (const double bpw : {3.0, 4.0, 5.5}) {
    for (const Codec codec : {Codec::kJoint, Codec::kPolar, Codec::kScalar, Codec::kTrellis}) {
      study.rows.push_back(RowOf("A", codec, bpw, 0.1));
    }
  }
  study.rows.push_back(RowOf("A", Codec::kUniform, 4, 0.1));
  const std::string html = StudyHtml(study);
  const std::string layers = html.substr(html.find("Layer by layer"));
  EXPECT_EQ(Count(layers, "<li>"), 16);  // eight lines in each of two plots
  EXPECT_EQ(Count(layers, ", 4.023 bpw</li>"), 10);
  EXPECT_EQ(Count(layers, ", 3.023 bpw</li>"), 6);
  EXPECT_THAT(layers, HasSubstr("8 of 13 rows"));
}

TEST(StudyPageTest, NamesAreText) {
  Study study{.display_name = "</title><script>alert(1)</script>",
              .rows = {RowOf("<script>alert(2)</script>", Codec::kJoint, 4, 0.1),
                       RowOf("\" onload=\"alert(3)", Codec::kPolar, 4, 0.2)}};
  study.rows[0].method = "<img src=x onerror='alert(4)'>";
  const std::string html = StudyHtml(study);
  ExpectSound(html);
  EXPECT_EQ(Count(html, "<script"), 0);
  EXPECT_EQ(Count(html, "<img"), 0);
  EXPECT_EQ(Count(html, "\" onload"), 0);
  EXPECT_THAT(html, HasSubstr("<td class=\"s\">&lt;script&gt;alert(2)&lt;/script&gt;</td>"));
  EXPECT_THAT(html, HasSubstr("<h1>&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;</h1>"));
}

TEST(StudyPageTest, NoRows) {
  const std::string html = StudyHtml({.display_name = "nothing", .rows = {}});
  ExpectSound(html);
  EXPECT_THAT(html, HasSubstr("Nothing has been measured yet."));
  EXPECT_EQ(Count(html, "<table") + Count(html, "<figure"), 0);
}

TEST(StudyPageTest, OneRowOfOneLayer) {
  const std::string html = StudyHtml({.display_name = "one", .rows = {RowOf("A", Codec::kJoint, 4, 0.1, 1)}});
  ExpectSound(html);
  EXPECT_EQ(Count(html, "<figure>"), 4);
  EXPECT_THAT(html, HasSubstr("not defined (1 row) over all."));
}

TEST(StudyPageTest, AKlOfZeroLiesOnTheEdge) {
  Study study{.display_name = "zero", .rows = {RowOf("A", Codec::kInt8, 8, 0)}};
  study.rows[0].quality.perplexity_change = -0.001;
  for (const bool alone : {true, false}) {
    if (!alone) study.rows.push_back(RowOf("A", Codec::kJoint, 4, 0.1));
    const std::string html = StudyHtml(study);
    ExpectSound(html);
    EXPECT_THAT(html, HasSubstr("cy=\"332.0\" r=\"4\"><title>A, W8A8"));
    // Both KL and the change of perplexity.
    EXPECT_THAT(html, HasSubstr("cx=\"72.0\" cy=\"332.0\" r=\"4\"><title>A, W8A8"));
  }
}

TEST(StudyPageTest, FullPrecisionIsInTheTablesOnly) {
  StudyRow full = RowOf("A", Codec::kFull, 16, 1e-8);
  full.spec.channel_scale = false;
  full.spec.rotation = RotationKind::kNone;
  full.method = MethodName(full.spec);
  Study study{.display_name = "full", .rows = {full}};
  for (const bool alone : {true, false}) {
    if (!alone) study.rows.push_back(RowOf("A", Codec::kJoint, 4, 0.1));
    const std::string html = StudyHtml(study);
    ExpectSound(html);
    EXPECT_THAT(html, HasSubstr("<td class=\"s\">full precision</td>"));
    EXPECT_EQ(Count(html, "<title>A, full precision"), 0);
    EXPECT_EQ(Count(html, "<title>A, joint") > 0, !alone);
  }
}

TEST(StudyPageTest, WhatIsNotKnownIsADash) {
  StudyRow row = RowOf("A", Codec::kJoint, 4, kNan);
  row.bpw = kInfinity;
  row.tensors[0].distortion = kNan;
  row.tensors[1].output_error = kInfinity;
  row.quantize_seconds = kNan;
  row.predicted_kl = 0;
  StudyRow bare;
  bare.method = MethodName(bare.spec);
  const std::string html = StudyHtml({.display_name = "unknown", .rows = {row, bare}});
  ExpectSound(html);
  EXPECT_THAT(html, HasSubstr("<td>\u2013 (\u2013 to \u2013)</td><td>\u2013 \u00b1 \u2013</td>"));
}

TEST(StudyPageTest, TheSameStudyGivesTheSameBytes) {
  EXPECT_EQ(StudyHtml(StudyOfTwoModels()), StudyHtml(StudyOfTwoModels()));
}

}  // namespace
}  // namespace qamserve
