// The metrics of /metrics in Prometheus' text form. Metrics that vLLM also has are named as there,
// so that dashboards for vLLM show them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "runtime/token_engine.h"

namespace fathom::server {

// Every method may be called from any thread and returns at once.
class Metrics {
 public:
  // `engines`: groups of ranks with requests of their own. Where there are several, what the page
  // says of an engine carries its number, as vLLM's does: engine="0".
  explicit Metrics(const std::string& model_name, int engines = 1);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void observe_step(const StepReport& step);
  void observe_first_token(double seconds);  // from the request's arrival
  void observe_token_gap(double seconds);    // between two tokens of one answer
  // An answer has ended: "stop", "length", "tool_calls", "cancelled", "error".
  void observe_end(std::string_view finish_reason, const RequestStats& stats, double seconds);
  // Counts tool calls of an answer that could not be read; 0 or more.
  void count_unreadable_calls(int calls);
  void count_http(std::string_view path, int status);

  // The page, with the engines' own figures as of `engines`, one each.
  std::string render_all(std::span<const EngineSnapshot> engines);
  // The same of one engine.
  std::string render(const EngineSnapshot& engine) { return render_all({&engine, 1}); }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::server
