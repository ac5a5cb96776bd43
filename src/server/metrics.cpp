#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <chrono>
#include <deque>
#include <mutex>

#include "base/check.h"

namespace fathom::server {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using Labels = std::map<std::string, std::string>;
using Buckets = Histogram::BucketBoundaries;

// Upper limits, from a step of a small model to a queue that is too long.
Buckets second_buckets() {
  return {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4,
          0.5,    0.75,  1,      2.5,   5,    7.5,   10,   20,    40,  80,   160, 640};
}
Buckets request_second_buckets() {
  return {0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,   1.5, 2,   2.5, 5,    10,
          15,   20,   30,  40,  50,  60,  120, 240, 480, 960, 1920, 7680};
}
Buckets token_buckets() {
  return {1,    2,    5,    10,    20,    50,    100,    200,   500,
          1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
}
Buckets step_token_buckets() {
  return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
}

// vLLM calls it "abort" if a client went away, and "stop" also if the model ended with a call.
std::string reason_label(std::string_view finish_reason) {
  if (finish_reason == "cancelled") return "abort";
  if (finish_reason == "tool_calls") return "stop";
  return std::string(finish_reason);
}

}  // namespace

struct Metrics::Impl {
  Impl(const std::string& model, int count) : labels{{"model_name", model}} {
    for (int e = 0; e < count; ++e) {
      Labels l = labels;
      if (count > 1) l["engine"] = std::to_string(e);
      engines.emplace_back(*this, l);
    }
    // Series that dashboards compute rates of must exist before the first event.
    for (const char* reason : {"stop", "length", "abort", "error"})
      successes.Add({{"model_name", model}, {"finished_reason", reason}});
    process_start.Set(
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  }

  // A name that is registered again is the same family.
  Gauge& gauge(const char* name, const char* help, const Labels& l) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(l);
  }
  Counter& counter(const char* name, const char* help, const Labels& l) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(l);
  }
  Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels,
                                                                                     buckets);
  }

  prometheus::Registry registry;
  const Labels labels;

  // Metrics of one engine, updated by render().
  struct EngineSeries {
    EngineSeries(Impl& all, const Labels& own) : impl(all), l(own) {}
    void follow(const EngineSnapshot& e);

    Impl& impl;
    const Labels l;
    Gauge& running = impl.gauge("vllm:num_requests_running", "Requests being computed.", l);
    Gauge& waiting = impl.gauge("vllm:num_requests_waiting", "Requests waiting to be computed.", l);
    Gauge& cache_usage =
        impl.gauge("vllm:kv_cache_usage_perc", "Share of the cache in use: 1 is all of it.", l);
    Counter& prefix_queries = impl.counter("vllm:prefix_cache_queries_total",
                                           "Tokens of prompts looked up in the cache.", l);
    Counter& prefix_hits =
        impl.counter("vllm:prefix_cache_hits_total", "Tokens of prompts found in the cache.", l);
    Counter& prompt_tokens =
        impl.counter("vllm:prompt_tokens_total", "Tokens of prompts computed.", l);
    Counter& generated_tokens =
        impl.counter("vllm:generation_tokens_total", "Tokens generated.", l);
    Counter& preemptions =
        impl.counter("vllm:num_preemptions_total", "Times a request gave its place to another.", l);
    Counter& draft_runs =
        impl.counter("vllm:spec_decode_num_drafts_total",
                     "Times that a step verified guesses of a request's next tokens.", l);
    Counter& draft_tokens = impl.counter("vllm:spec_decode_num_draft_tokens_total",
                                         "Tokens that were guessed and verified.", l);
    Counter& accepted_tokens = impl.counter("vllm:spec_decode_num_accepted_tokens_total",
                                            "Of these, the ones that the model drew, too.", l);
    Counter& steps = impl.counter("fathom:steps_total", "Steps of the engine.", l);
    Gauge& engine_up = impl.gauge("fathom:engine_up", "1 while the engine works.", l);
  };
  std::deque<EngineSeries> engines;
  prometheus::Family<Counter>& accepted_at =
      prometheus::BuildCounter()
          .Name("vllm:spec_decode_num_accepted_tokens_per_pos_total")
          .Help("The same by their place among the guesses of one step, from 0.")
          .Register(registry);
  Counter& unreadable_calls = counter(
      "fathom:unreadable_tool_calls_total",
      "Tool calls in answers that could not be read and became text, or ended half-way.", labels);

  // Metrics of requests.
  Histogram& first_token =
      histogram("vllm:time_to_first_token_seconds", "From a request's arrival to its first token.",
                second_buckets());
  Histogram& token_gap = histogram("vllm:inter_token_latency_seconds",
                                   "Between two tokens of one answer.", second_buckets());
  // The same under the name that it had in earlier dashboards.
  Histogram& token_gap_old = histogram("vllm:time_per_output_token_seconds",
                                       "Between two tokens of one answer.", second_buckets());
  Histogram& request_time =
      histogram("vllm:e2e_request_latency_seconds", "From a request's arrival to its end.",
                request_second_buckets());
  Histogram& request_prompt =
      histogram("vllm:request_prompt_tokens", "Tokens of a request's prompt.", token_buckets());
  Histogram& request_generated = histogram("vllm:request_generation_tokens",
                                           "Tokens generated for a request.", token_buckets());
  prometheus::Family<Counter>& successes = prometheus::BuildCounter()
                                               .Name("vllm:request_success_total")
                                               .Help("Requests by how they ended.")
                                               .Register(registry);

  // Metrics of steps.
  prometheus::Family<Histogram>& step_seconds =
      prometheus::BuildHistogram()
          .Name("fathom:step_seconds")
          .Help("Model and sampling of one step, by what was in it.")
          .Register(registry);
  Histogram& decode_seconds = step_kind("decode");
  Histogram& prefill_seconds = step_kind("prefill");
  Histogram& mixed_seconds = step_kind("mixed");
  Histogram& step_tokens =
      histogram("vllm:iteration_tokens_total", "Tokens of one step.", step_token_buckets());
  Histogram& step_sequences =
      histogram("fathom:step_sequences", "Requests of one step.", step_token_buckets());
  Histogram& host_seconds =
      histogram("fathom:host_seconds", "Planning and delivery around one step.", second_buckets());

  prometheus::Family<Counter>& http = prometheus::BuildCounter()
                                          .Name("fathom:http_requests_total")
                                          .Help("Requests by path and status.")
                                          .Register(registry);
  Gauge& process_start = gauge("process_start_time_seconds", "Unix time of the start.", {});

  std::mutex render_mutex;  // counters follow the engine's totals one render at a time

 private:
  Histogram& step_kind(const char* kind) {
    Labels l = labels;
    l["kind"] = kind;
    return step_seconds.Add(l, second_buckets());
  }
};

Metrics::Metrics(const std::string& model_name, int engines)
    : impl_(std::make_unique<Impl>(model_name, engines)) {}
Metrics::~Metrics() = default;

void Metrics::observe_step(const StepReport& s) {
  Histogram& seconds = s.decodes == 0          ? impl_->prefill_seconds
                       : s.decodes == s.tokens ? impl_->decode_seconds
                                               : impl_->mixed_seconds;
  seconds.Observe(s.seconds);
  impl_->step_tokens.Observe(s.tokens);
  impl_->step_sequences.Observe(s.sequences);
  impl_->host_seconds.Observe(s.host_seconds);
}

void Metrics::observe_first_token(double seconds) { impl_->first_token.Observe(seconds); }

void Metrics::observe_token_gap(double seconds) {
  impl_->token_gap.Observe(seconds);
  impl_->token_gap_old.Observe(seconds);
}

void Metrics::observe_end(std::string_view finish_reason, const RequestStats& stats,
                          double seconds) {
  Labels l = impl_->labels;
  l["finished_reason"] = reason_label(finish_reason);
  impl_->successes.Add(l).Increment();
  impl_->request_time.Observe(seconds);
  impl_->request_prompt.Observe(static_cast<double>(stats.prompt_tokens));
  impl_->request_generated.Observe(static_cast<double>(stats.generated_tokens));
}

void Metrics::count_unreadable_calls(int calls) { impl_->unreadable_calls.Increment(calls); }

void Metrics::count_http(std::string_view path, int status) {
  impl_->http.Add({{"path", std::string(path)}, {"status", std::to_string(status)}}).Increment();
}

void Metrics::Impl::EngineSeries::follow(const EngineSnapshot& e) {
  // An older snapshot than the last one changes nothing: totals do not go back.
  const auto count = [](Counter& counter, int64_t total) {
    const double behind = static_cast<double>(total) - counter.Value();
    if (behind > 0) counter.Increment(behind);
  };
  running.Set(e.running);
  waiting.Set(e.waiting);
  cache_usage.Set(
      e.pages > 0 ? 1.0 - static_cast<double>(e.free_pages) / static_cast<double>(e.pages) : 0.0);
  engine_up.Set(e.failed ? 0 : 1);
  count(prefix_queries, e.prefix_queries);
  count(prefix_hits, e.prefix_hits);
  count(prompt_tokens, e.prompt_tokens);
  count(generated_tokens, e.generated_tokens);
  count(preemptions, e.preemptions);
  const SpeculationStats& drafts = e.speculation;
  count(draft_runs, drafts.drafts);
  count(draft_tokens, drafts.draft_tokens);
  count(accepted_tokens, drafts.accepted_tokens);
  for (size_t i = 0; i < drafts.accepted_at.size(); ++i) {
    Labels at = l;
    at["position"] = std::to_string(i);
    count(impl.accepted_at.Add(at), drafts.accepted_at[i]);
  }
  count(steps, e.steps);
}

std::string Metrics::render_all(std::span<const EngineSnapshot> engines) {
  FATHOM_CHECK(engines.size() == impl_->engines.size(), "figures of {} engines for {}",
               engines.size(), impl_->engines.size());
  std::lock_guard lock(impl_->render_mutex);
  for (size_t e = 0; e < engines.size(); ++e) impl_->engines[e].follow(engines[e]);
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace fathom::server
