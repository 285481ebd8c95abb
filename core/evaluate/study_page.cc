#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <optional>

#include "core/evaluate/plot.h"
#include "core/evaluate/study.h"

namespace qamserve {
namespace {

constexpr char kPageStyle[] =
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}h1,h2,h3{line-height:1.25;overflow-wrap:anywhere}"
    ".table{overflow-x:auto}table{border-collapse:collapse;font-size:14px}"
    "th,td{padding:.25rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid #ddd}"
    "th{border-bottom:2px solid #999}"
    "td.s,th.s{text-align:left;white-space:normal;min-width:7rem;max-width:22rem;overflow-wrap:anywhere}\n"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#14171a}th,td{border-color:#333a40}"
    "th{border-color:#777}}\n";

constexpr size_t kLayerLines = 8;  // more cannot be told apart

// Four digits; a dash for what is not a number.
std::string Figure(double value) { return std::isfinite(value) ? fmt::format("{:.4g}", value) : "\u2013"; }
// Likewise for values that are 0 if they are not known.
std::string KnownFigure(double value) { return value > 0 ? Figure(value) : "\u2013"; }
std::string Fixed(double value, int digits) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, digits) : "\u2013";
}

struct Column {
  std::string head;
  bool text = false;
};

// Escapes every cell.
std::string TableHtml(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows) {
  const auto cell = [&](const char* tag, size_t column, const std::string& text) {
    return fmt::format("<{0}{1}>{2}</{0}>", tag, columns[column].text ? " class=\"s\"" : "", EscapeHtml(text));
  };
  std::string out = "<div class=\"table\"><table>\n<thead><tr>";
  for (size_t i = 0; i < columns.size(); ++i) out += cell("th", i, columns[i].head);
  out += "</tr></thead>\n<tbody>\n";
  for (const std::vector<std::string>& row : rows) {
    out += "<tr>";
    for (size_t i = 0; i < columns.size(); ++i) out += cell("td", i, row[i]);
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string FigureHtml(const Plot& plot, const std::vector<PlotSeries>& legend, const std::string& caption) {
  return "<figure>\n" + PlotSvg(plot) + PlotLegend(legend) + "<figcaption>" + EscapeHtml(caption) +
         "</figcaption>\n</figure>\n";
}

std::string Heading(int level, const std::string& text) {
  return fmt::format("<h{0}>{1}</h{0}>\n", level, EscapeHtml(text));
}

std::string PerplexityChange(const QualityReport& q) {
  return Fixed(100 * q.perplexity_change, 2) + " \u00b1 " + Fixed(100 * q.perplexity_change_stderr, 2);
}

std::string RowLabel(const StudyRow& row) { return fmt::format("{}, {} bpw", row.method, Figure(row.bpw)); }
std::string PointNote(const StudyRow& row) {
  return fmt::format("{}, {}: KL {}, perplexity {} %", row.model, RowLabel(row), Figure(row.quality.kl_mean),
                     PerplexityChange(row.quality));
}

// Full precision is in the tables only: its errors, decades below all others, would be most of a plot's height.
bool IsPlotted(const StudyRow& row) { return row.spec.codec != Codec::kFull; }

// The methods of a study that are plotted, each with the look that it has in every plot.
std::vector<PlotSeries> MethodsOf(const Study& study) {
  std::vector<PlotSeries> methods;
  for (const StudyRow& row : study.rows) {
    if (!IsPlotted(row)) continue;
    const bool known = std::any_of(methods.begin(), methods.end(),
                                   [&](const PlotSeries& method) { return method.name == row.method; });
    if (!known) methods.push_back(StyledSeries(methods.size(), row.method));
  }
  return methods;
}

std::string ResultsTable(const Study& study) {
  std::vector<std::vector<std::string>> cells;
  for (const StudyRow& row : study.rows) {
    const QualityReport& q = row.quality;
    cells.push_back({row.model, row.method, Fixed(row.bpw, 3),
                     fmt::format("{} ({} to {})", Figure(q.kl_mean), Figure(q.kl_ci95_low), Figure(q.kl_ci95_high)),
                     PerplexityChange(q), Fixed(100 * q.top1_agreement, 2), Fixed(row.quantize_seconds, 1)});
  }
  return Heading(2, "Results") + TableHtml({{"model", true},
                                            {"method", true},
                                            {"bpw"},
                                            {"KL, nats a token (95 %)"},
                                            {"perplexity, % \u00b1 stderr"},
                                            {"same first choice, %"},
                                            {"seconds"}},
                                           cells);
}

std::string JointPolarTable(const Study& study) {
  std::vector<std::vector<std::string>> cells;
  for (const JointPolarPair& pair : PairJointWithPolar(study)) {
    const StudyRow& joint = study.rows[pair.joint];
    const StudyRow& polar = study.rows[pair.polar];
    cells.push_back({joint.model, joint.method, polar.method, Fixed(joint.spec.bpw, 1), Figure(joint.quality.kl_mean),
                     Figure(polar.quality.kl_mean), Figure(KnownRatio(polar.quality.kl_mean, joint.quality.kl_mean))});
  }
  if (cells.empty()) return "";
  return Heading(2, "Joint against polar") + TableHtml({{"model", true},
                                                        {"joint", true},
                                                        {"polar", true},
                                                        {"nominal bpw"},
                                                        {"KL, joint"},
                                                        {"KL, polar"},
                                                        {"polar / joint"}},
                                                       cells);
}

std::string RatePlot(const Study& study, const StudyModel& model) {
  Plot plot{.title = "KL by bits a weight, " + model.model,
            .x = {.label = "bits a weight, with norms and scales"},
            .y = {.label = "mean KL, nats a token", .log = true},
            .series = {}};
  for (PlotSeries& method : MethodsOf(study)) {
    std::vector<size_t> rows = model.rows;
    std::erase_if(rows,
                  [&](size_t i) { return study.rows[i].method != method.name || !std::isfinite(study.rows[i].bpw); });
    std::stable_sort(rows.begin(), rows.end(),
                     [&](size_t i, size_t j) { return study.rows[i].bpw < study.rows[j].bpw; });
    for (const size_t i : rows) {
      const QualityReport& q = study.rows[i].quality;
      method.points.push_back({.x = study.rows[i].bpw,
                               .y = q.kl_mean,
                               .low = q.kl_ci95_low,
                               .high = q.kl_ci95_high,
                               .note = PointNote(study.rows[i])});
    }
    if (!rows.empty()) plot.series.push_back(std::move(method));
  }
  return Heading(3, model.model) +
         FigureHtml(plot, plot.series, "Bars are 95 % intervals over windows. A KL of 0 is drawn on the lower edge.");
}

std::string Correlation(double spearman, size_t rows) {
  const std::string counted = fmt::format("({} {})", rows, rows == 1 ? "row" : "rows");
  if (!std::isfinite(spearman)) return "not defined " + counted;
  return fmt::format("{:.3f} {}", spearman, counted);
}

std::string PerplexityPlot(const Study& study) {
  Plot plot{.title = "Perplexity change by KL",
            .x = {.label = "mean KL, nats a token", .log = true},
            .y = {.label = "perplexity change, %", .log = true},
            .series = {}};
  // Colors tell methods, markers models.
  std::vector<PlotSeries> legend = MethodsOf(study);
  for (PlotSeries& method : legend) {
    method.line = false;
    method.marker = 0;
  }
  const size_t methods = legend.size();
  const std::vector<StudyModel> models = ModelsOf(study);
  std::string caption = "Spearman's rank correlation of KL and perplexity change: " +
                        Correlation(KlPerplexityCorrelation(study), study.rows.size()) + " over all";
  for (size_t m = 0; m < models.size(); ++m) {
    const int marker = static_cast<int>(m);
    for (const size_t i : models[m].rows) {
      const StudyRow& row = study.rows[i];
      if (!IsPlotted(row)) continue;
      const auto method = std::find_if(legend.begin(), legend.begin() + static_cast<ptrdiff_t>(methods),
                                       [&](const PlotSeries& one) { return one.name == row.method; });
      plot.series.push_back(
          {.color = method->color,
           .marker = marker,
           .line = false,
           .name = row.method,
           .points = {{.x = row.quality.kl_mean, .y = 100 * row.quality.perplexity_change, .note = PointNote(row)}}});
    }
    if (models.size() == 1) break;
    legend.push_back({.color = -1, .marker = marker, .line = false, .name = models[m].model, .points = {}});
    caption +=
        fmt::format("; {} in {}", Correlation(KlPerplexityCorrelation(study, models[m].rows), models[m].rows.size()),
                    models[m].model);
  }
  caption += ". What is not above 0 is drawn on the edge.";
  return Heading(2, "Perplexity against KL") + FigureHtml(plot, legend, caption);
}

// The first part of a tensor's name that is a number: "model.layers.3.mlp.up_proj" is of layer 3.
std::optional<int> LayerOf(const std::string& name) {
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    const bool number = !part.empty() && part.size() <= 6 &&
                        std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (number) return std::stoi(part);
    begin = end + 1;
  }
  return std::nullopt;
}

// One point a layer: the mean distortion of its weights, or the sum of its tensors' output errors. Empty if it is not
// known.
std::vector<PlotPoint> LayerPoints(const StudyRow& row, bool output_error) {
  struct Sum {
    double value = 0, weight = 0;
  };
  std::map<int, Sum> layers;
  for (const TensorOutcome& tensor : row.tensors) {
    const std::optional<int> layer = LayerOf(tensor.name);
    if (!layer) continue;
    const double size = static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
    layers[*layer].value += output_error ? tensor.output_error : tensor.distortion * size;
    layers[*layer].weight += size;
  }
  std::vector<PlotPoint> points;
  bool known = false;
  for (const auto& [layer, sum] : layers) {
    const double value = output_error ? sum.value : sum.value / sum.weight;
    known = known || value > 0;
    points.push_back({.x = static_cast<double>(layer),
                      .y = value,
                      .note = fmt::format("layer {}: {}, {}", layer, RowLabel(row), Figure(value))});
  }
  if (!known) points.clear();
  return points;
}

// Up to kLayerLines rows of a model. Methods differ most tellingly at one rate: the rows at the nominal rate that most
// methods share come first, those at the nearest rates fill up.
std::vector<size_t> TellingRows(const Study& study, const StudyModel& model) {
  std::map<double, std::vector<std::string>> methods_at;
  std::vector<size_t> rows = model.rows;
  std::erase_if(rows, [&](size_t i) { return !IsPlotted(study.rows[i]); });
  if (rows.empty()) return rows;
  for (const size_t i : rows) {
    std::vector<std::string>& methods = methods_at[study.rows[i].spec.bpw];
    if (std::find(methods.begin(), methods.end(), study.rows[i].method) == methods.end()) {
      methods.push_back(study.rows[i].method);
    }
  }
  const auto shared = std::max_element(methods_at.begin(), methods_at.end(),
                                       [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  std::stable_sort(rows.begin(), rows.end(), [&](size_t i, size_t j) {
    return std::abs(study.rows[i].spec.bpw - shared->first) < std::abs(study.rows[j].spec.bpw - shared->first);
  });
  if (rows.size() > kLayerLines) rows.resize(kLayerLines);
  std::sort(rows.begin(), rows.end());
  return rows;
}

// "" if no row has what is asked for.
std::string LayerPlot(const Study& study, const StudyModel& model, bool output_error) {
  const std::string what = output_error ? "squared output error a token" : "distortion";
  Plot plot{.title = what + " by layer, " + model.model,
            .x = {.label = "layer", .whole = true},
            .y = {.label = what, .log = true},
            .series = {}};
  for (const size_t i : TellingRows(study, model)) {
    PlotSeries series = StyledSeries(plot.series.size(), RowLabel(study.rows[i]));
    series.points = LayerPoints(study.rows[i], output_error);
    if (!series.points.empty()) plot.series.push_back(std::move(series));
  }
  if (plot.series.empty()) return "";
  std::string caption = output_error ? "Expected squared error of the layer's linear outputs, summed over its tensors."
                                     : "Mean squared error a weight over the weights' mean square.";
  if (model.rows.size() > kLayerLines) {
    caption += fmt::format(" {} of {} rows: those nearest to the rate that most methods share.", kLayerLines,
                           model.rows.size());
  }
  return FigureHtml(plot, plot.series, caption);
}

std::string LayerSections(const Study& study) {
  std::string out;
  for (const StudyModel& model : ModelsOf(study)) {
    const std::string plots = LayerPlot(study, model, false) + LayerPlot(study, model, true);
    if (!plots.empty()) out += Heading(3, model.model) + plots;
  }
  return out.empty() ? "" : Heading(2, "Layer by layer") + out;
}

std::string BoundTable(const Study& study) {
  std::vector<std::vector<std::string>> cells;
  for (const StudyRow& row : study.rows) {
    std::vector<std::string> line = {row.model, row.method, Fixed(row.bpw, 3)};
    const auto compare = [&](double predicted, double measured) {
      line.insert(line.end(), {KnownFigure(predicted), KnownFigure(measured), Figure(KnownRatio(predicted, measured))});
    };
    compare(row.ideal_distortion, MeanDistortion(row));
    compare(row.predicted_output_error, row.output_error);
    compare(row.predicted_kl, row.quality.kl_mean);
    cells.push_back(std::move(line));
  }
  return Heading(2, "Theory and measurement") +
         "<p>Predicted, measured, and their ratio: the codec's distortion on a Gaussian, the output error that follows "
         "from it, and the KL that follows from that. A dash stands for what is not known.</p>\n" +
         TableHtml({{"model", true},
                    {"method", true},
                    {"bpw"},
                    {"distortion, ideal"},
                    {"measured"},
                    {"ratio"},
                    {"output error, predicted"},
                    {"measured"},
                    {"ratio"},
                    {"KL, predicted"},
                    {"measured"},
                    {"ratio"}},
                   cells);
}

std::string Sections(const Study& study) {
  if (study.rows.empty()) return "<p>Nothing has been measured yet.</p>\n";
  std::string out = ResultsTable(study) + JointPolarTable(study) + Heading(2, "KL by bits a weight");
  for (const StudyModel& model : ModelsOf(study)) out += RatePlot(study, model);
  return out + PerplexityPlot(study) + LayerSections(study) + BoundTable(study);
}

}  // namespace

std::string StudyHtml(const Study& study) {
  const std::string title = EscapeHtml(study.display_name);
  return "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width\">\n<title>" +
         title + "</title>\n<style>\n" + kPageStyle + PlotStyle() + "</style>\n</head>\n<body>\n<h1>" + title +
         "</h1>\n" + Sections(study) + "</body>\n</html>\n";
}

}  // namespace qamserve
