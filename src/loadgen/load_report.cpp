#include "loadgen/load_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace fathom::loadgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

double percentile(std::span<const double> sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - static_cast<double>(low));
}

struct Times {
  std::vector<double> first_token, between, per_token, whole;
};

Times times_of(std::span<const LoadResult> results) {
  Times t;
  for (const LoadResult& r : results) {
    if (!r.error.empty()) continue;
    t.whole.push_back(r.end - r.sent);
    if (r.events.empty()) continue;
    t.first_token.push_back(r.events.front() - r.sent);
    for (size_t i = 1; i < r.events.size(); ++i) t.between.push_back(r.events[i] - r.events[i - 1]);
    if (r.output_tokens > 1)
      t.per_token.push_back((r.events.back() - r.events.front()) /
                            static_cast<double>(r.output_tokens - 1));
  }
  return t;
}

OrderedJson spread_json(const Spread& s) {
  return {{"count", s.count}, {"mean", s.mean}, {"p50", s.p50},
          {"p95", s.p95},     {"p99", s.p99},   {"max", s.max}};
}

// A curve of the share of values at or below x, x on a logarithmic axis.
class Distribution {
 public:
  static constexpr double kWidth = 560, kHeight = 200, kLeft = 60, kGap = 74;

  Distribution(std::string title, std::vector<double> values, int row)
      : title_(std::move(title)), values_(std::move(values)), top_(40 + row * (kHeight + kGap)) {
    std::sort(values_.begin(), values_.end());
    if (values_.empty()) return;
    low_ = std::floor(std::log10(std::max(1e-6, values_.front())));
    high_ = std::max(low_ + 1, std::ceil(std::log10(std::max(1e-6, values_.back()))));
  }

  std::string draw() const {
    std::string s = fmt::format(
        "<text x=\"{}\" y=\"{}\" class=\"title\">{}</text>\n<rect x=\"{}\" y=\"{}\" width=\"{}\" "
        "height=\"{}\" class=\"frame\"/>\n",
        kLeft, top_ - 10, title_, kLeft, top_, kWidth, kHeight);
    for (double decade = low_; decade <= high_; ++decade) {
      const double x = x_of(std::pow(10, decade));
      s += fmt::format("<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\"/>\n", x, top_,
                       top_ + kHeight);
      s += fmt::format("<text x=\"{:.1f}\" y=\"{}\" class=\"x\">{}</text>\n", x,
                       top_ + kHeight + 18, seconds_text(std::pow(10, decade)));
    }
    for (double share : {0.5, 0.9, 1.0})
      s += fmt::format(
          "<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\"/>\n<text x=\"{}\" y=\"{:.1f}\" "
          "class=\"y\">{:.0f} %</text>\n",
          kLeft, y_of(share), kLeft + kWidth, y_of(share), kLeft - 6, y_of(share) + 4, share * 100);
    return s + curve();
  }

  static double height(int rows) { return 40 + rows * (kHeight + kGap); }

 private:
  double x_of(double value) const {
    const double at = (std::log10(std::max(1e-6, value)) - low_) / (high_ - low_);
    return kLeft + at * kWidth;
  }
  double y_of(double share) const { return top_ + kHeight * (1 - share); }
  static std::string seconds_text(double s) {
    if (s < 0.0009) return fmt::format("{:g} us", s * 1e6);
    if (s < 0.9) return fmt::format("{:g} ms", s * 1e3);
    return fmt::format("{:g} s", s);
  }

  std::string curve() const {
    if (values_.empty()) return {};
    // A few hundred points draw the same line as a million.
    const size_t stride = std::max<size_t>(1, values_.size() / 400);
    std::string points;
    for (size_t i = 0; i < values_.size(); i += stride)
      points += fmt::format("{:.1f},{:.1f} ", x_of(values_[i]),
                            y_of(static_cast<double>(i + 1) / static_cast<double>(values_.size())));
    points += fmt::format("{:.1f},{:.1f}", x_of(values_.back()), y_of(1));
    return fmt::format("<polyline points=\"{}\"/>\n", points);
  }

  std::string title_;
  std::vector<double> values_;
  double top_, low_ = -3, high_ = 0;
};

}  // namespace

Spread spread_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  double sum = 0;
  for (double v : values) sum += v;
  return {static_cast<int64_t>(values.size()),
          sum / static_cast<double>(values.size()),
          percentile(values, 0.5),
          percentile(values, 0.95),
          percentile(values, 0.99),
          values.back()};
}

LoadReport report_of(std::span<const LoadResult> results) {
  LoadReport report;
  double first = results.empty() ? 0 : results.front().sent;
  for (const LoadResult& r : results) {
    first = std::min(first, r.sent);
    report.seconds = std::max(report.seconds, r.end);
    if (!r.error.empty()) {
      ++report.failed;
      ++report.errors[r.error];
      continue;
    }
    ++report.completed;
    report.prompt_tokens += r.prompt_tokens;
    report.cached_tokens += r.cached_tokens;
    report.output_tokens += r.output_tokens;
    report.events_counted += r.events_counted;
  }
  report.seconds -= first;
  Times t = times_of(results);
  report.first_token = spread_of(std::move(t.first_token));
  report.between = spread_of(std::move(t.between));
  report.per_token = spread_of(std::move(t.per_token));
  report.whole = spread_of(std::move(t.whole));
  return report;
}

std::string table_of(const LoadReport& r) {
  std::string s = fmt::format(
      "requests  {} completed, {} failed in {:.2f} s: {:.2f} a second\n"
      "tokens    {} of prompts ({} from the cache), {} generated\n"
      "speed     {:.1f} generated tokens/s, {:.1f} with prompts\n\n"
      "{:<24} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
      r.completed, r.failed, r.seconds, r.requests_per_s(), r.prompt_tokens, r.cached_tokens,
      r.output_tokens, r.output_per_s(), r.total_per_s(), "milliseconds", "mean", "p50", "p95",
      "p99", "max");
  auto row = [&](const char* name, const Spread& spread) {
    s += fmt::format("{:<24} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f}\n", name,
                     spread.mean * 1e3, spread.p50 * 1e3, spread.p95 * 1e3, spread.p99 * 1e3,
                     spread.max * 1e3);
  };
  row("to the first token", r.first_token);
  row("between tokens", r.between);
  row("a token (of one answer)", r.per_token);
  row("whole request", r.whole);
  if (r.events_counted > 0)
    s +=
        fmt::format("the server does not say how many tokens {} answers have: events are counted\n",
                    r.events_counted);
  for (const auto& [error, count] : r.errors)
    s += fmt::format("failed {} times: {}\n", count, error);
  return s;
}

std::string json_of(const LoadReport& r, const LoadOptions& o, const LoadTarget& t,
                    std::span<const LoadResult> results) {
  OrderedJson j;
  j["target"] = {
      {"host", t.host}, {"port", t.port}, {"chat", t.chat}, {"max_concurrency", t.max_concurrency}};
  j["load"] = {{"requests", o.requests},           {"rate", o.rate},
               {"burstiness", o.burstiness},       {"input_tokens", o.input_tokens},
               {"output_tokens", o.output_tokens}, {"range_ratio", o.range_ratio},
               {"shared_prefix", o.shared_prefix}, {"seed", o.seed}};
  j["completed"] = r.completed;
  j["failed"] = r.failed;
  j["seconds"] = r.seconds;
  j["prompt_tokens"] = r.prompt_tokens;
  j["cached_tokens"] = r.cached_tokens;
  j["output_tokens"] = r.output_tokens;
  j["answers_counted_by_events"] = r.events_counted;
  j["requests_per_second"] = r.requests_per_s();
  j["output_tokens_per_second"] = r.output_per_s();
  j["total_tokens_per_second"] = r.total_per_s();
  j["time_to_first_token"] = spread_json(r.first_token);
  j["between_tokens"] = spread_json(r.between);
  j["time_per_output_token"] = spread_json(r.per_token);
  j["whole_request"] = spread_json(r.whole);
  j["errors"] = r.errors;
  OrderedJson& list = j["requests"] = OrderedJson::array();
  for (const LoadResult& one : results) {
    OrderedJson entry = {{"planned", one.planned},
                         {"sent", one.sent},
                         {"end", one.end},
                         {"status", one.status},
                         {"prompt_tokens", one.prompt_tokens},
                         {"output_tokens", one.output_tokens}};
    if (!one.events.empty()) entry["first_token"] = one.events.front();
    if (!one.error.empty()) entry["error"] = one.error;
    list.push_back(std::move(entry));
  }
  return j.dump(2, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string svg_of(const LoadReport& report, std::span<const LoadResult> results) {
  Times t = times_of(results);
  const double width = Distribution::kLeft + Distribution::kWidth + 30;
  std::string s = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\">\n<style>text{{font:13px sans-serif;fill:#333}} .title{{font-weight:600}} "
      ".x{{text-anchor:middle}} .y{{text-anchor:end}} .frame{{fill:none;stroke:#999}} "
      "line{{stroke:#ddd}} polyline{{fill:none;stroke:#1f6feb;stroke-width:2}}</style>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      width, Distribution::height(2));
  const std::string load = fmt::format("{} requests, {:.1f} generated tokens/s", report.completed,
                                       report.output_per_s());
  s += Distribution("Time to first token: " + load, std::move(t.first_token), 0).draw();
  s += Distribution("Time between tokens", std::move(t.between), 1).draw();
  return s + "</svg>\n";
}

}  // namespace fathom::loadgen
