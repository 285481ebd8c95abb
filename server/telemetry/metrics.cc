#include "server/telemetry/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <map>
#include <utility>

namespace qamserve {
namespace {

constexpr std::string_view kOther = "other";

std::string Str(std::string_view text) { return std::string(text); }

// Collects what the gauge sources say into families, in the order of the table.
class FamilyWriter final : public Metrics::GaugeWriter {
 public:
  using Labeler = std::function<std::string(const LabelSpec&, std::string_view)>;
  explicit FamilyWriter(Labeler labeler) : labeler_(std::move(labeler)) {}

  void Set(Metric metric, Metrics::LabelValues labels, double value) override {
    const MetricSpec& spec = SpecOf(metric);
    if (spec.type != MetricType::kGauge || labels.size() != spec.labels.size()) return;
    prometheus::ClientMetric sample;
    sample.gauge.value = value;
    auto label = labels.begin();
    for (const LabelSpec& label_spec : spec.labels) {
      sample.label.push_back({Str(label_spec.name), labeler_(label_spec, *label++)});
    }
    prometheus::MetricFamily& family = families_[metric];
    family.name = Str(spec.name);
    family.help = Str(spec.help);
    family.type = prometheus::MetricType::Gauge;
    AddOrSum(family, std::move(sample));
  }

  void AppendTo(std::vector<prometheus::MetricFamily>& out) {
    for (auto& [metric, family] : families_) out.push_back(std::move(family));
  }

 private:
  // Two sources of one series (several models that are all "other") are summed: a series may stand only once.
  static void AddOrSum(prometheus::MetricFamily& family, prometheus::ClientMetric sample) {
    for (prometheus::ClientMetric& present : family.metric) {
      if (present.label == sample.label) {
        present.gauge.value += sample.gauge.value;
        return;
      }
    }
    family.metric.push_back(std::move(sample));
  }

  Labeler labeler_;
  std::map<Metric, prometheus::MetricFamily> families_;
};

double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double total = 0;
  double resident = 0;
  statm >> total >> resident;
  return statm ? resident * static_cast<double>(sysconf(_SC_PAGESIZE)) : 0;
}

}  // namespace

struct Metrics::Families {
  prometheus::Registry registry;
  std::map<Metric, prometheus::Family<prometheus::Counter>*> counters;
  std::map<Metric, prometheus::Family<prometheus::Histogram>*> histograms;
};

Metrics::Metrics() : families_(std::make_unique<Families>()) {
  for (const MetricSpec& spec : AllMetrics()) {
    if (spec.type == MetricType::kCounter) {
      auto& family = prometheus::BuildCounter().Name(Str(spec.name)).Help(Str(spec.help)).Register(families_->registry);
      families_->counters[spec.id] = &family;
      if (spec.labels.empty()) family.Add({});  // a counter that never moved reads 0, not absent
    } else if (spec.type == MetricType::kHistogram) {
      families_->histograms[spec.id] =
          &prometheus::BuildHistogram().Name(Str(spec.name)).Help(Str(spec.help)).Register(families_->registry);
    }
  }
}

Metrics::~Metrics() = default;

std::string Metrics::LabelValue(const LabelSpec& label, std::string_view value) const {
  if (label.values.empty()) {
    absl::ReaderMutexLock lock(&mutex_);
    return known_model_ && known_model_(value) ? Str(value) : Str(kOther);
  }
  return std::find(label.values.begin(), label.values.end(), value) != label.values.end() ? Str(value) : Str(kOther);
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
  const prometheus::Histogram::BucketBoundaries buckets(spec.buckets.begin(), spec.buckets.end());
  family->second->Add(values, buckets).Observe(value);
}

void Metrics::SetKnownModels(KnownModel known) {
  absl::MutexLock lock(&mutex_);
  known_model_ = std::move(known);
}

void Metrics::AddGaugeSource(GaugeSource source) {
  absl::MutexLock lock(&mutex_);
  sources_.push_back(std::move(source));
}

void Metrics::ClearSources() {
  absl::MutexLock lock(&mutex_);
  known_model_ = nullptr;
  sources_.clear();
}

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = families_->registry.Collect();
  // A family without a sample would print a lone header, which promtool calls an error.
  std::erase_if(families, [](const prometheus::MetricFamily& family) { return family.metric.empty(); });
  {
    absl::ReaderMutexLock lock(&mutex_);
    FamilyWriter writer([this](const LabelSpec& label, std::string_view value) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      if (!label.values.empty()) return LabelValue(label, value);
      return known_model_ && known_model_(value) ? Str(value) : Str(kOther);
    });
    for (const GaugeSource& source : sources_) source(writer);
    writer.Set(Metric::kBuildInfo, {QAMSERVE_VERSION}, 1);
    writer.Set(Metric::kResidentMemoryBytes, {}, ResidentBytes());
    writer.AppendTo(families);
  }
  std::sort(families.begin(), families.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace qamserve
