// The numbers behind /metrics. Start here for server/telemetry. Counters and histograms are pushed as things happen;
// gauges are asked for at scrape time, so that nothing polls and a model that is gone leaves no series behind.
// Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/telemetry/metric_table.h"

namespace qamserve {

class Metrics {
 public:
  using LabelValues = std::initializer_list<std::string_view>;

  // What a gauge source says in one scrape.
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

  std::unique_ptr<Families> families_;
  mutable absl::Mutex mutex_;
  KnownModel known_model_ ABSL_GUARDED_BY(mutex_);
  std::vector<GaugeSource> sources_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qamserve
