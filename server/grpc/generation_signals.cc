#include "server/grpc/generation_signals.h"

#include <absl/time/clock.h>

#include <algorithm>
#include <utility>

namespace qamserve {
namespace {

void Trace(Tracer& tracer, const CallGuard& guard, const std::string& model, std::string_view outcome,
           const GenerationSummary& summary) {
  SpanRecord span;
  span.ids = tracer.Begin(guard.trace_parent());
  if (!span.ids.sampled) return;
  span.name = "generate";
  span.end = absl::Now();
  span.start = span.end - absl::Seconds(summary.total_seconds);
  span.events.push_back({span.start + absl::Seconds(summary.queue_seconds), "admitted"});
  if (summary.completion_tokens > 0) {
    span.events.push_back({span.start + absl::Seconds(summary.time_to_first_token_seconds), "first_token"});
  }
  const double prefill_seconds = std::max(0.0, summary.time_to_first_token_seconds - summary.queue_seconds);
  const double decode_seconds = std::max(0.0, summary.total_seconds - summary.time_to_first_token_seconds);
  // Names of OpenTelemetry's conventions where it has some.
  span.attributes = {{"gen_ai.request.model", model},
                     {"gen_ai.usage.input_tokens", int64_t{summary.prompt_tokens}},
                     {"gen_ai.usage.output_tokens", int64_t{summary.completion_tokens}},
                     {"qamserve.cached_prompt_tokens", int64_t{summary.cached_prompt_tokens}},
                     {"qamserve.outcome", std::string(outcome)},
                     {"qamserve.queue_seconds", summary.queue_seconds}};
  if (summary.completion_tokens > 0) {
    span.attributes.emplace_back("qamserve.prefill_seconds", prefill_seconds);
    span.attributes.emplace_back("qamserve.decode_seconds", decode_seconds);
  }
  if (summary.preemptions > 0) span.attributes.emplace_back("qamserve.preemptions", int64_t{summary.preemptions});
  if (summary.reason == FinishReason::kError) span.error = ReasonOf(summary.status);
  tracer.End(std::move(span));
}

}  // namespace

void TellGeneration(ServiceContext& context, const CallGuard& guard, const std::string& model, std::string_view outcome,
                    const GenerationSummary& summary) {
  Trace(*context.tracer, guard, model, outcome, summary);
  const bool failed = summary.reason == FinishReason::kError;
  if (!failed && !context.log.debug()) return;
  Log::Fields fields = guard.LogFields();
  fields["model"] = model;
  fields["outcome"] = std::string(outcome);
  fields["prompt_tokens"] = summary.prompt_tokens;
  fields["completion_tokens"] = summary.completion_tokens;
  fields["queue_seconds"] = summary.queue_seconds;
  fields["seconds"] = summary.total_seconds;
  if (!failed) return context.log.Debug("generation", fields);
  fields["reason"] = ReasonOf(summary.status);
  context.log.Warning("generation_failed", fields);
}

}  // namespace qamserve
