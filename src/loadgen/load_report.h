// The results of a load test, as a table, JSON and a picture.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "loadgen/load_client.h"

namespace fathom::loadgen {

// The distribution of a set of times, in seconds.
struct Spread {
  int64_t count = 0;
  double mean = 0, p50 = 0, p95 = 0, p99 = 0, max = 0;
};
// Percentiles by linear interpolation between the two nearest; all zero for an empty set.
Spread spread_of(std::vector<double> values);

struct LoadReport {
  int completed = 0, failed = 0;
  double seconds = 0;  // from the first request to the last byte
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  int events_counted = 0;  // answers whose tokens the server did not count: events are counted
  Spread first_token;      // from sending to the first text
  Spread between;          // between two events with text of one answer
  Spread per_token;        // (last text - first text) / (tokens - 1), one value per answer
  Spread whole;            // from sending to the end
  std::map<std::string, int> errors;  // what went wrong, how often

  double requests_per_s() const { return seconds > 0 ? completed / seconds : 0; }
  double output_per_s() const {
    return seconds > 0 ? static_cast<double>(output_tokens) / seconds : 0;
  }
  double total_per_s() const {
    return seconds > 0 ? static_cast<double>(output_tokens + prompt_tokens) / seconds : 0;
  }
};
LoadReport report_of(std::span<const LoadResult> results);

std::string table_of(const LoadReport& report);
// Contains each of `results`, too.
std::string json_of(const LoadReport& report, const LoadOptions& options, const LoadTarget& target,
                    std::span<const LoadResult> results);
// Draws the distributions of the times to the first token and between tokens.
std::string svg_of(const LoadReport& report, std::span<const LoadResult> results);

}  // namespace fathom::loadgen
