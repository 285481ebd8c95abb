#include "server/telemetry/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <map>
#include <utility>

#include "server/access/method_table.h"
#include "server/telemetry/process_stats.h"

namespace qamserve {
namespace {

constexpr std::string_view kOther = "other";
// Series of a counter or histogram that are there from the start; more would be lines that nobody reads.
constexpr size_t kMaxZeroCounters = 64;
constexpr size_t kMaxZeroHistograms = 8;
// Of a pool, as jobs name them.
constexpr size_t kMaxPoolBytes = 63;

std::string Str(std::string_view text) { return std::string(text); }

bool IsPoolName(std::string_view text) {
  const auto is_plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
  return !text.empty() && text.size() <= kMaxPoolBytes && std::all_of(text.begin(), text.end(), is_plain);
}

// Whether the value may stand in a label whose values are no matter of what is served.
bool IsKnownValue(const LabelSpec& label, std::string_view value) {
  const std::span<const MethodRule> rules = MethodTable();
  switch (label.source) {
    case LabelSource::kFixed:
      return std::find(label.values.begin(), label.values.end(), value) != label.values.end();
    case LabelSource::kPool:
      return IsPoolName(value);
    case LabelSource::kService:
      return std::any_of(rules.begin(), rules.end(), [&](const MethodRule& rule) { return rule.service == value; });
    case LabelSource::kMethod:
      return std::any_of(rules.begin(), rules.end(), [&](const MethodRule& rule) { return rule.method == value; });
    case LabelSource::kModel:
      break;
  }
  return false;
}

double& ValueOf(prometheus::ClientMetric& sample, MetricType type) {
  return type == MetricType::kGauge ? sample.gauge.value : sample.counter.value;
}

// Collects what the gauge sources say into families, in the order of the table.
class FamilyWriter final : public Metrics::GaugeWriter {
 public:
  using Labeler = std::function<std::string(const LabelSpec&, std::string_view)>;
  explicit FamilyWriter(Labeler labeler) : labeler_(std::move(labeler)) {}

  void Set(Metric metric, Metrics::LabelValues labels, double value) override {
    const MetricSpec& spec = SpecOf(metric);
    const bool scraped = spec.type == MetricType::kGauge || spec.type == MetricType::kScrapedCounter;
    if (!scraped || labels.size() != spec.labels.size()) return;
    prometheus::ClientMetric sample;
    ValueOf(sample, spec.type) = value;
    auto label = labels.begin();
    for (const LabelSpec& label_spec : spec.labels) {
      sample.label.push_back({Str(label_spec.name), labeler_(label_spec, *label++)});
    }
    prometheus::MetricFamily& family = families_[metric];
    family.name = Str(spec.name);
    family.help = Str(spec.help);
    family.type = spec.type == MetricType::kGauge ? prometheus::MetricType::Gauge : prometheus::MetricType::Counter;
    AddOrSum(family, std::move(sample), spec.type);
  }

  void AppendTo(std::vector<prometheus::MetricFamily>& out) {
    for (auto& [metric, family] : families_) out.push_back(std::move(family));
  }

 private:
  // Two sources of one series (several models that are all "other") are summed: a series may stand only once.
  static void AddOrSum(prometheus::MetricFamily& family, prometheus::ClientMetric sample, MetricType type) {
    for (prometheus::ClientMetric& present : family.metric) {
      if (present.label == sample.label) {
        ValueOf(present, type) += ValueOf(sample, type);
        return;
      }
    }
    family.metric.push_back(std::move(sample));
  }

  Labeler labeler_;
  std::map<Metric, prometheus::MetricFamily> families_;
};

prometheus::Histogram::BucketBoundaries BucketsOf(const MetricSpec& spec) {
  return {spec.buckets.begin(), spec.buckets.end()};
}

// All values of all labels, if these are fixed and make at most `limit` series; else none.
std::vector<prometheus::Labels> AllSeries(std::span<const LabelSpec> labels, size_t limit) {
  std::vector<prometheus::Labels> series = {{}};
  for (const LabelSpec& label : labels) {
    std::vector<prometheus::Labels> longer;
    longer.reserve(series.size() * label.values.size());
    for (const prometheus::Labels& values : series) {
      for (const std::string_view value : label.values) {
        longer.push_back(values);
        longer.back()[Str(label.name)] = Str(value);
      }
    }
    series = std::move(longer);
    if (series.size() > limit) return {};
  }
  return series;
}

}  // namespace

struct Metrics::Families {
  prometheus::Registry registry;
  std::map<Metric, prometheus::Family<prometheus::Counter>*> counters;
  std::map<Metric, prometheus::Family<prometheus::Histogram>*> histograms;
};

// What never happened reads 0, not absent: of a counter that begins at 1, Prometheus sees no increase.
Metrics::Metrics() : families_(std::make_unique<Families>()), start_time_(ProcessStartTime()) {
  for (const MetricSpec& spec : AllMetrics()) {
    if (spec.type == MetricType::kCounter) {
      auto& family = prometheus::BuildCounter().Name(Str(spec.name)).Help(Str(spec.help)).Register(families_->registry);
      families_->counters[spec.id] = &family;
      for (const prometheus::Labels& labels : AllSeries(spec.labels, kMaxZeroCounters)) family.Add(labels);
    } else if (spec.type == MetricType::kHistogram) {
      auto& family =
          prometheus::BuildHistogram().Name(Str(spec.name)).Help(Str(spec.help)).Register(families_->registry);
      families_->histograms[spec.id] = &family;
      for (const prometheus::Labels& labels : AllSeries(spec.labels, kMaxZeroHistograms))
        family.Add(labels, BucketsOf(spec));
    }
  }
}

Metrics::~Metrics() = default;

bool Metrics::IsModelLabel(std::string_view name) const {
  {
    absl::ReaderMutexLock lock(&mutex_);
    if (!known_model_ || !known_model_(name)) return false;
    if (models_.find(name) != models_.end()) return true;
  }
  absl::MutexLock lock(&mutex_);
  if (models_.size() >= kMaxModels) return models_.find(name) != models_.end();
  models_.emplace(name);
  return true;
}

std::string Metrics::LabelValue(const LabelSpec& label, std::string_view value) const {
  const bool known = label.source == LabelSource::kModel ? IsModelLabel(value) : IsKnownValue(label, value);
  return Str(known ? value : kOther);
}

void Metrics::Add(Metric counter, LabelValues labels, double by) {
  const MetricSpec& spec = SpecOf(counter);
  const auto family = families_->counters.find(counter);
  if (family == families_->counters.end() || labels.size() != spec.labels.size() || !(by >= 0)) return;
  prometheus::Labels values;
  auto label = labels.begin();
  for (const LabelSpec& label_spec : spec.labels) values[Str(label_spec.name)] = LabelValue(label_spec, *label++);
  family->second->Add(values).Increment(by);
}

void Metrics::Observe(Metric histogram, LabelValues labels, double value) {
  const MetricSpec& spec = SpecOf(histogram);
  const auto family = families_->histograms.find(histogram);
  if (family == families_->histograms.end() || labels.size() != spec.labels.size()) return;
  prometheus::Labels values;
  auto label = labels.begin();
  for (const LabelSpec& label_spec : spec.labels) values[Str(label_spec.name)] = LabelValue(label_spec, *label++);
  family->second->Add(values, BucketsOf(spec)).Observe(value);
}

void Metrics::SetKnownModels(KnownModel known) {
  absl::MutexLock lock(&mutex_);
  known_model_ = std::move(known);
}

void Metrics::AddGaugeSource(GaugeSource source) {
  absl::MutexLock lock(&sources_mutex_);
  sources_.push_back(std::move(source));
}

void Metrics::ClearSources() {
  absl::MutexLock sources_lock(&sources_mutex_);
  sources_.clear();
  absl::MutexLock lock(&mutex_);
  known_model_ = nullptr;
}

std::string Metrics::Text() const {
  FamilyWriter writer([this](const LabelSpec& label, std::string_view value) { return LabelValue(label, value); });
  {
    absl::ReaderMutexLock lock(&sources_mutex_);
    for (const GaugeSource& source : sources_) source(writer);
  }
  writer.Set(Metric::kBuildInfo, {QAMSERVE_VERSION}, 1);
  if (start_time_) writer.Set(Metric::kStartTimeSeconds, {}, *start_time_);
  WriteProcessStats(writer);
  std::vector<prometheus::MetricFamily> families = families_->registry.Collect();
  // A family without a sample would print a lone header, which promtool calls an error.
  std::erase_if(families, [](const prometheus::MetricFamily& family) { return family.metric.empty(); });
  writer.AppendTo(families);
  std::sort(families.begin(), families.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace qamserve
