// The numbers behind /metrics. Start here for server/telemetry. Counters and histograms are pushed as things happen;
// gauges are asked for at scrape time, so that nothing polls and a model that is gone leaves no series behind.
// Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/telemetry/metric_table.h"

namespace qamserve {

class Metrics {
 public:
  using LabelValues = std::initializer_list<std::string_view>;

  // What a gauge source says in one scrape: gauges, and counters that are counted elsewhere (kScrapedCounter). What
  // several sources say of one series is added up.
  class GaugeWriter {
   public:
    virtual ~GaugeWriter() = default;
    virtual void Set(Metric metric, LabelValues labels, double value) = 0;
  };
  using GaugeSource = std::function<void(GaugeWriter&)>;
  using KnownModel = std::function<bool(std::string_view)>;

  Metrics();
  ~Metrics();

  // Label values stand in the order of the table. A value outside the label's set is counted as "other".
  void Add(Metric counter, LabelValues labels = {}, double by = 1);
  void Observe(Metric histogram, LabelValues labels, double value);

  // Which model names may stand in a label. Without it all are "other". `known` must be callable until it is replaced.
  // Counters and histograms of a model that is gone stay; so only the first kMaxModels names get series of their own.
  static constexpr size_t kMaxModels = 256;
  void SetKnownModels(KnownModel known);
  // Called at each scrape until ClearSources.
  void AddGaugeSource(GaugeSource source);
  // After this no source and no `known` is called, nor is one running.
  void ClearSources();

  // The Prometheus text format, version 0.0.4.
  std::string Text() const;

 private:
  struct Families;
  std::string LabelValue(const LabelSpec& label, std::string_view value) const;
  bool IsModelLabel(std::string_view name) const;

  std::unique_ptr<Families> families_;
  const std::optional<double> start_time_;
  mutable absl::Mutex mutex_;  // held for moments only: tokens are counted under it
  KnownModel known_model_ ABSL_GUARDED_BY(mutex_);
  mutable std::set<std::string, std::less<>> models_ ABSL_GUARDED_BY(mutex_);  // that have series of their own
  mutable absl::Mutex sources_mutex_;  // held while sources run; taken before mutex_
  std::vector<GaugeSource> sources_ ABSL_GUARDED_BY(sources_mutex_);
};

}  // namespace qamserve
