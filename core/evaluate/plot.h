// Plots as inline SVG, colored by classes so that a page shows them light or dark. Pure functions; thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qamserve {

// For text and quoted attributes of HTML. Control characters become spaces.
std::string EscapeHtml(std::string_view text);

struct PlotPoint {
  double x = 0;
  double y = 0;
  double low = 0, high = 0;  // an interval about y, drawn if low < high
  std::string note;          // shown when pointed at
};

struct PlotSeries {
  // Colors, markers and dashes each repeat after some number, not the same one; a color of -1 is that of text.
  int color = 0;
  int marker = 0;
  bool line = true;  // joins the points in their order
  std::string name;
  std::vector<PlotPoint> points;
};

struct PlotAxis {
  std::string label;
  bool log = false;    // values of 0 and less lie on the lower edge
  bool whole = false;  // ticks at whole numbers only; not with log
};

struct Plot {
  std::string title;  // for readers that do not see
  PlotAxis x, y;
  std::vector<PlotSeries> series;
};

// An <svg> element. Points that are not finite are left out.
std::string PlotSvg(const Plot& plot);
// A list of the series' names with their marks; points are ignored.
std::string PlotLegend(const std::vector<PlotSeries>& series);
// The rules for a <style> element that both of the above need.
std::string PlotStyle();
// A color and a marker for the i-th of many series, such that the first 64 all differ.
PlotSeries StyledSeries(size_t i, std::string name);

// The round values that label an axis over `values`: 2 to 20, ascending and finite whatever the values are. But for
// rounding, the first is not above and the last not below any value. A log axis looks at positive values; its first
// label is below all of them, and lower still if there are others. Beyond 1e15 (log: 1e-200 and 1e200) values lie on
// the edge.
std::vector<double> AxisTicks(const PlotAxis& axis, const std::vector<double>& values);

}  // namespace qamserve
