#include "core/evaluate/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

namespace qamserve {
namespace {

// In CSS pixels, of the drawing; a page may scale it.
constexpr double kWidth = 680;
constexpr double kHeight = 380;
constexpr double kLeft = 72;
constexpr double kRight = kWidth - 16;
constexpr double kTop = 14;
constexpr double kBottom = kHeight - 48;
constexpr double kMarker = 4;  // half its width

// Beyond these, labels and decades would run out of what a double holds.
constexpr double kLogLimit = 1e200;
constexpr double kLinearLimit = 1e15;

constexpr int kColors = 8;
constexpr int kMarkers = 8;
constexpr int kDashes = 4;
// At least 3:1 against white and against #14171a; hues that stay apart for color-blind readers come first.
constexpr std::array<const char*, kColors> kLight = {"#0072b2", "#c84d00", "#00805a", "#b0397f",
                                                     "#8f6b00", "#4b3fb0", "#444444", "#008aa8"};
constexpr std::array<const char*, kColors> kDark = {"#56b4e9", "#ff8c42", "#3fd19b", "#f08cc8",
                                                    "#f0c419", "#a79bff", "#cfcfcf", "#4fd8e8"};

std::string ColorClass(int color) { return color < 0 ? "cn" : fmt::format("c{}", color % kColors); }
std::string DashClass(int marker) { return fmt::format("d{}", marker % kDashes); }

std::string MarkerSvg(const PlotSeries& series, double x, double y, const std::string& note) {
  // Paths about the origin, of half width 1.
  constexpr std::array<const char*, kMarkers> kPaths = {
      "",  // a circle
      "M-.9-.9H.9V.9H-.9Z",
      "M0-1.2L1.1.8H-1.1Z",
      "M0-1.3L1.3 0 0 1.3-1.3 0Z",
      "M0 1.2L1.1-.8H-1.1Z",
      "M-1-1L1 1M-1 1L1-1",
      "M0-1.3V1.3M-1.3 0H1.3",
      "M0-1.3V1.3M-1.2-.7L1.2.7M-1.2.7L1.2-.7",
  };
  const std::string title = note.empty() ? "" : "<title>" + EscapeHtml(note) + "</title>";
  const int marker = series.marker % kMarkers;
  if (marker == 0) {
    return fmt::format("<circle class=\"m {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\">{}</circle>\n",
                       ColorClass(series.color), x, y, kMarker, title);
  }
  return fmt::format("<path class=\"m {}\" transform=\"translate({:.1f} {:.1f}) scale({})\" d=\"{}\">{}</path>\n",
                     ColorClass(series.color), x, y, kMarker, kPaths[static_cast<size_t>(marker)], title);
}

std::vector<double> LinearTicks(const PlotAxis& axis, double low, double high) {
  low = std::clamp(low, -kLinearLimit, kLinearLimit);
  high = std::clamp(high, -kLinearLimit, kLinearLimit);
  // A single value, or values that differ by no more than rounding, get room about them.
  const double least = std::max(1e-3 * std::max(std::abs(low), std::abs(high)), 1e-9);  // labels have six digits
  if (high - low < least) {
    const double room = axis.whole ? 1 : std::max(0.5, 0.1 * std::abs(low));
    low -= axis.whole ? 0 : room;
    high += room;
  }
  const double rough = (high - low) / 6;
  double step = std::pow(10.0, std::floor(std::log10(rough)));
  if (rough > 5 * step) {
    step *= 10;
  } else if (rough > 2 * step) {
    step *= 5;
  } else if (rough > step) {
    step *= 2;
  }
  if (axis.whole) step = std::max(1.0, std::round(step));
  std::vector<double> ticks;
  for (double i = std::floor(low / step); ticks.size() < 2 || ticks.back() < high; ++i) {
    if (ticks.size() == 20) break;    // far more than a step of a sixth can give
    ticks.push_back(i * step + 0.0);  // never -0
  }
  return ticks;
}

std::vector<double> LogTicks(double low, double high, bool room_below) {
  low = std::clamp(low, 1 / kLogLimit, kLogLimit);
  high = std::clamp(high, 1 / kLogLimit, kLogLimit);
  const int first = static_cast<int>(std::floor(std::log10(low))) - 1;
  const int last = static_cast<int>(std::ceil(std::log10(high))) + 1;
  const int stride = std::max(1, (last - first) / 8);
  const bool fine = last - first <= 5;  // marks at 2 and 5, too
  std::vector<double> marks;
  for (int decade = first; decade <= last + stride; decade += stride) {
    for (const int digit : {1, 2, 5}) {
      // Read as text, as pow() may miss by a bit.
      if (digit == 1 || fine) marks.push_back(std::strtod(fmt::format("{}e{}", digit, decade).c_str(), nullptr));
    }
  }
  // Below every value, so that only what is not positive lies on the edge.
  auto begin = std::lower_bound(marks.begin(), marks.end(), low) - 1;
  auto end = std::lower_bound(marks.begin(), marks.end(), high);
  if (room_below && begin != marks.begin()) --begin;
  if (begin == end) ++end;
  return {begin, end + 1};
}

// Where the values of an axis lie in the drawing.
class Scale {
 public:
  Scale(const PlotAxis& axis, std::vector<double> ticks, double from, double to)
      : log_(axis.log), ticks_(std::move(ticks)), from_(from), to_(to) {}

  const std::vector<double>& ticks() const { return ticks_; }
  double Place(double value) const {
    const double inside = std::clamp(value, ticks_.front(), ticks_.back());
    const double share = (Map(inside) - Map(ticks_.front())) / (Map(ticks_.back()) - Map(ticks_.front()));
    return from_ + (to_ - from_) * share;
  }

 private:
  double Map(double value) const { return log_ ? std::log10(value) : value; }

  bool log_;
  std::vector<double> ticks_;
  double from_, to_;
};

std::string GridSvg(const Plot& plot, const Scale& x, const Scale& y) {
  std::string out;
  for (const double tick : x.ticks()) {
    const double at = x.Place(tick);
    out += fmt::format("<line class=\"g\" x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\"/>", at, kTop, kBottom);
    out += fmt::format("<text class=\"t x\" x=\"{:.1f}\" y=\"{}\">{:.6g}</text>\n", at, kBottom + 16, tick);
  }
  for (const double tick : y.ticks()) {
    const double at = y.Place(tick);
    out += fmt::format("<line class=\"g\" x1=\"{1}\" y1=\"{0:.1f}\" x2=\"{2}\" y2=\"{0:.1f}\"/>", at, kLeft, kRight);
    out += fmt::format("<text class=\"t y\" x=\"{}\" y=\"{:.1f}\">{:.6g}</text>\n", kLeft - 6, at + 4, tick);
  }
  out += fmt::format("<path class=\"a\" d=\"M{} {}V{}H{}\"/>\n", kLeft, kTop, kBottom, kRight);
  out += fmt::format("<text class=\"t x\" x=\"{}\" y=\"{}\">{}</text>\n", (kLeft + kRight) / 2, kHeight - 10,
                     EscapeHtml(plot.x.label));
  out += fmt::format("<text class=\"t x\" transform=\"translate(16 {}) rotate(-90)\">{}</text>\n", (kTop + kBottom) / 2,
                     EscapeHtml(plot.y.label));
  return out;
}

bool Drawable(const PlotPoint& point) { return std::isfinite(point.x) && std::isfinite(point.y); }
bool HasInterval(const PlotPoint& point) {
  return std::isfinite(point.low) && std::isfinite(point.high) && point.low < point.high;
}

std::string SeriesSvg(const PlotSeries& series, const Scale& x, const Scale& y) {
  std::string line;
  std::string marks;
  for (const PlotPoint& point : series.points) {
    if (!Drawable(point)) continue;
    const double at_x = x.Place(point.x);
    const double at_y = y.Place(point.y);
    line += fmt::format("{}{:.1f} {:.1f}", line.empty() ? "M" : "L", at_x, at_y);
    if (HasInterval(point)) {
      marks += fmt::format(
          "<path class=\"i {0}\" d=\"M{1:.1f} {3:.1f}H{2:.1f}M{1:.1f} {4:.1f}H{2:.1f}M{5:.1f} {3:.1f}V{4:.1f}\"/>",
          ColorClass(series.color), at_x - 4, at_x + 4, y.Place(point.low), y.Place(point.high), at_x);
    }
    marks += MarkerSvg(series, at_x, at_y, point.note);
  }
  if (!series.line || line.empty()) return marks;
  return fmt::format("<path class=\"l {} {}\" d=\"{}\"/>\n{}", ColorClass(series.color), DashClass(series.marker), line,
                     marks);
}

std::string ColorRules(const std::array<const char*, kColors>& colors, const char* text) {
  std::string rules = fmt::format(".cn{{stroke:{0};fill:{0}}}", text);
  for (size_t i = 0; i < colors.size(); ++i) {
    rules += fmt::format(".c{0}{{stroke:{1};fill:{1}}}", i, colors[i]);
  }
  return rules;
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return out;
}

std::vector<double> AxisTicks(const PlotAxis& axis, const std::vector<double>& values) {
  std::vector<double> used;
  bool room_below = false;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    if (axis.log && value <= 0) {
      room_below = true;
    } else {
      used.push_back(value);
    }
  }
  if (used.empty()) used.push_back(axis.log ? 0.01 : 0);
  const auto [low, high] = std::minmax_element(used.begin(), used.end());
  return axis.log ? LogTicks(*low, *high, room_below) : LinearTicks(axis, *low, *high);
}

std::string PlotSvg(const Plot& plot) {
  std::vector<double> xs;
  std::vector<double> ys;
  for (const PlotSeries& series : plot.series) {
    for (const PlotPoint& point : series.points) {
      if (!Drawable(point)) continue;
      xs.push_back(point.x);
      ys.push_back(point.y);
      if (!HasInterval(point)) continue;
      // On a log axis an interval that comes near zero does not stretch the plot: it ends at the edge.
      ys.push_back(plot.y.log ? std::max(point.low, std::max(point.y, 0.0) / 10) : point.low);
      ys.push_back(point.high);
    }
  }
  const Scale x(plot.x, AxisTicks(plot.x, xs), kLeft, kRight);
  const Scale y(plot.y, AxisTicks(plot.y, ys), kBottom, kTop);
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", kWidth, kHeight,
                                EscapeHtml(plot.title));
  out += GridSvg(plot, x, y);
  for (const PlotSeries& series : plot.series) out += SeriesSvg(series, x, y);
  return out + "</svg>\n";
}

std::string PlotLegend(const std::vector<PlotSeries>& series) {
  std::string out = "<ul class=\"legend\">\n";
  for (const PlotSeries& one : series) {
    out += "<li><svg viewBox=\"0 0 36 14\" width=\"36\" height=\"14\" aria-hidden=\"true\">";
    if (one.line) {
      out += fmt::format("<path class=\"l {} {}\" d=\"M0 7H36\"/>", ColorClass(one.color), DashClass(one.marker));
    }
    out += MarkerSvg(one, 18, 7, "") + "</svg> " + EscapeHtml(one.name) + "</li>\n";
  }
  return out + "</ul>\n";
}

std::string PlotStyle() {
  std::string css =
      "figure{margin:1rem 0;max-width:760px}figure>svg{display:block;width:100%;height:auto}\n"
      ".legend{list-style:none;padding:0;margin:.3rem 0;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem}"
      ".legend li{display:flex;align-items:center;gap:.4rem;overflow-wrap:anywhere}.legend svg{flex:none}\n"
      ".t{font:12px system-ui,sans-serif;fill:#333}.x{text-anchor:middle}.y{text-anchor:end}"
      ".g{stroke:#e3e3e3}.a{stroke:#777;fill:none}\n";
  css += ColorRules(kLight, "#333") + "\n@media(prefers-color-scheme:dark){.t{fill:#ccc}.g{stroke:#333a40}" +
         ColorRules(kDark, "#ccc") + "}\n";
  // After the colors: lines and intervals are not filled. Markers are scaled, and their lines with them.
  css +=
      ".l{fill:none;stroke-width:1.6}.i{fill:none;stroke-width:1.2}"
      ".m{stroke-width:.4}"
      ".d1{stroke-dasharray:7 3}.d2{stroke-dasharray:2 3}.d3{stroke-dasharray:8 3 2 3}\n";
  return css;
}

PlotSeries StyledSeries(size_t i, std::string name) {
  // The markers turn by one each time the colors repeat.
  const int n = static_cast<int>(i % (kColors * kMarkers));
  return {.color = n % kColors,
          .marker = (n + n / kColors) % kMarkers,
          .line = true,
          .name = std::move(name),
          .points = {}};
}

}  // namespace qamserve
