#include "eval/report.h"

#include "eval/needles.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace fathom::eval {
namespace {

Estimate estimate_of(const Task& task, std::span<const Record> records) {
  std::vector<Sample> samples;
  double ones = 0;
  for (const Record& r : records) {
    samples.push_back({r.value, r.weight});
    ones += r.value;
  }
  if (task.binary())
    return share_of(static_cast<int64_t>(ones), static_cast<int64_t>(records.size()));
  return ratio_of(samples);
}

// "0.013 nats a token", "2.5 points": the size of a difference.
std::string size_text(Metric metric, double size) {
  return metric == Metric::nats_per_token ? fmt::format("{:.4f} nats a token", size)
                                          : fmt::format("{:.1f} points", 100 * size);
}

std::string verdict_of(const Task& task, const Comparison& c) {
  const Estimate& d = c.difference;
  if (d.items == 0) return "no item in both";
  const bool all_equal = c.equal == d.items;
  // Equal values other than ones and zeros have no spread, so there is no interval to report.
  if (all_equal && !task.binary()) return fmt::format("identical on all {} items", d.items);
  if (d.items < 2) return "one item: no interval";
  if (d.low > 0 || d.high < 0)
    return fmt::format("{} by {} at {:.0f} % ({} to {})", d.value > 0 ? "higher" : "lower",
                       size_text(task.metric(), std::fabs(d.value)), 100 * kConfidence,
                       size_text(task.metric(), std::min(std::fabs(d.low), std::fabs(d.high))),
                       size_text(task.metric(), std::max(std::fabs(d.low), std::fabs(d.high))));
  return fmt::format(
      "{}no difference larger than {} at {:.0f} %", all_equal ? "equal on every item; " : "",
      size_text(task.metric(), std::max(std::fabs(d.low), std::fabs(d.high))), 100 * kConfidence);
}

Comparison compare(const VariantResult& a, const VariantResult& b) {
  Comparison c;
  c.variant = a.name;
  c.reference = b.name;
  std::map<std::string, const Record*> others;
  for (const Record& r : b.run.records) others[b.task->where(r.item)] = &r;
  std::vector<Sample> left, right;
  int64_t only_a = 0, only_b = 0;
  for (const Record& r : a.run.records) {
    const auto it = others.find(a.task->where(r.item));
    // Two tokenizers may split the same text into different numbers of tokens; such items are not
    // paired.
    if (it == others.end() || it->second->weight != r.weight) continue;
    const double other = it->second->value;
    left.push_back({r.value, r.weight});
    right.push_back({other, r.weight});
    c.equal += r.value == other;
    only_a += r.value > other;
    only_b += r.value < other;
  }
  c.difference = a.task->binary()
                     ? paired_share_difference(only_a, only_b, static_cast<int64_t>(left.size()))
                     : paired_difference(left, right);
  c.verdict = verdict_of(*a.task, c);
  return c;
}

std::string value_text(Metric metric, double value) {
  return metric == Metric::nats_per_token ? fmt::format("{:.4f}", value)
                                          : fmt::format("{:.1f} %", 100 * value);
}
std::string signed_text(Metric metric, double value) {
  return metric == Metric::nats_per_token ? fmt::format("{:+.4f}", value)
                                          : fmt::format("{:+.1f} %", 100 * value);
}

// An error needs two items.
std::string figure_text(Metric metric, const Estimate& e) {
  if (e.items == 0) return "-";
  if (e.items == 1) return value_text(metric, e.value);
  return fmt::format("{} ± {}", value_text(metric, e.value), value_text(metric, e.standard_error));
}

Json estimate_json(const char* name, const Estimate& e) {
  Json j;
  j[name] = e.value;
  j["stderr"] = e.standard_error;
  j["low"] = e.low;
  j["high"] = e.high;
  j["items"] = e.items;
  return j;
}

// Cells of a table, a row a line; the first row is its head.
using Table = std::vector<std::vector<std::string>>;

// Columns of characters, not bytes: cells may name files.
size_t columns_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

std::string aligned(const Table& table) {
  std::vector<size_t> widths;
  for (const auto& row : table)
    for (size_t i = 0; i < row.size(); ++i) {
      if (i == widths.size()) widths.push_back(0);
      widths[i] = std::max(widths[i], columns_of(row[i]));
    }
  std::string s;
  for (const auto& row : table) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - columns_of(row[i]), ' ');
      line += i == 0 ? row[i] + pad : i + 1 == row.size() ? "  " + row[i] : "  " + pad + row[i];
    }
    s += line + "\n";
  }
  return s;
}

std::string piped(const Table& table) {
  std::string s;
  for (size_t r = 0; r < table.size(); ++r) {
    for (const std::string& cell : table[r]) s += "| " + cell + " ";
    s += "|\n";
    if (r > 0) continue;
    for (size_t i = 0; i < table[0].size(); ++i) s += i == 0 ? "|---" : "|---:";
    s += "|\n";
  }
  return s;
}

// One row a task: every variant's figure, then differences, and verdicts where there is room.
Table table_of(const Report& report, bool verdicts) {
  Table table;
  std::vector<std::string>& head = table.emplace_back();
  head = {"task", "metric", "items"};
  if (report.tasks.empty()) return table;
  for (const Row& r : report.tasks[0].rows) head.push_back(r.variant);
  for (const Comparison& c : report.tasks[0].comparisons) {
    head.push_back(fmt::format("{} - {}", c.variant, c.reference));
    if (verdicts) head.emplace_back("verdict");
  }
  for (const TaskReport& t : report.tasks) {
    std::vector<std::string>& row = table.emplace_back();
    size_t measured = t.rows.empty() ? 0 : t.rows[0].estimate.items;
    for (const Row& r : t.rows) measured = std::min(measured, r.estimate.items);
    row = {t.name, name_of(t.metric), std::to_string(measured)};
    for (const Row& r : t.rows) {
      const Estimate& e = r.estimate;
      row.push_back(figure_text(t.metric, e));
    }
    for (const Comparison& c : t.comparisons) {
      const Estimate& d = c.difference;
      row.push_back(d.items == 0
                        ? "-"
                        : fmt::format("{} [{}, {}]", signed_text(t.metric, d.value),
                                      signed_text(t.metric, d.low), signed_text(t.metric, d.high)));
      if (verdicts) row.push_back(c.verdict);
    }
  }
  return table;
}

// Noted are: counts of failures that occurred, pass@k, and in a table of one task all the rest.
bool worth_a_note(const std::string& key, const Json& value, bool alone) {
  if (key == "unparsed" || key == "cut_off") return value.get<double>() > 0;
  return alone || key.starts_with("pass_at_");
}

// What a reader of the table should know beside it.
std::vector<std::string> notes_of(const Report& report) {
  std::vector<std::string> notes;
  for (const TaskReport& t : report.tasks) {
    for (const Row& r : t.rows)
      if (r.extra.contains("bits_per_byte"))
        notes.push_back(fmt::format("{}, {}: {:.4f} bits a byte, perplexity {:.3f}, {} tokens",
                                    t.name, r.variant, r.extra["bits_per_byte"].get<double>(),
                                    r.extra["perplexity"].get<double>(),
                                    r.extra["tokens"].get<int64_t>()));
      else
        for (const auto& [key, value] : r.extra.items())
          if (value.is_number() && worth_a_note(key, value, report.tasks.size() == 1))
            notes.push_back(
                fmt::format("{}, {}: {} {:.4g}", t.name, r.variant, key, value.get<double>()));
    for (const std::string& note : t.notes) notes.push_back(fmt::format("{}: {}", t.name, note));
    if (!t.skipped.empty())
      notes.push_back(fmt::format("{}: {} of {} items skipped", t.name, t.skipped.size(),
                                  t.skipped.size() + t.items));
    for (const Row& r : t.rows)
      if (!r.complete)
        notes.push_back(fmt::format("{}, {}: stopped after {} of {} items", t.name, r.variant,
                                    r.estimate.items, t.items));
  }
  return notes;
}

}  // namespace

bool Report::complete() const {
  return std::all_of(tasks.begin(), tasks.end(), [](const TaskReport& t) {
    return std::all_of(t.rows.begin(), t.rows.end(), [](const Row& r) { return r.complete; });
  });
}

size_t Report::skipped() const {
  size_t n = 0;
  for (const TaskReport& t : tasks) n += t.skipped.size();
  return n;
}

TaskReport report_of(const std::vector<VariantResult>& results) {
  const Task& task = *results.front().task;
  TaskReport report;
  report.name = task.name();
  report.kind = task.kind();
  report.metric = task.metric();
  report.items = task.size();
  std::set<std::string> told;
  for (const VariantResult& v : results) {
    Row& row = report.rows.emplace_back();
    row.variant = v.name;
    row.estimate = estimate_of(*v.task, v.run.records);
    row.extra = v.task->extra(v.run.records);
    row.kept = v.run.kept;
    row.tokens = v.run.progress.tokens_done;
    row.seconds = v.run.progress.seconds;
    row.complete = v.run.complete;
    for (const Skipped& s : v.run.skipped)
      if (told.insert(s.where).second) report.skipped.push_back(s);
  }
  for (size_t i = 0; i + 1 < results.size(); ++i)
    report.comparisons.push_back(compare(results[i], results.back()));
  return report;
}

std::string text_of(const Report& report) {
  std::string s = aligned(table_of(report, false));
  for (const TaskReport& t : report.tasks)
    for (const Comparison& c : t.comparisons)
      s += fmt::format("{}{}: {} against {}: {}\n",
                       &t == &report.tasks[0] && &c == &t.comparisons[0] ? "\n" : "", t.name,
                       c.variant, c.reference, c.verdict);
  for (const TaskReport& t : report.tasks)
    for (const Row& r : t.rows)
      if (r.extra.contains("cells") && !r.extra["cells"].empty())
        s += fmt::format("\n{}, {}\n{}", t.name, r.variant, needles_text(r.extra));
  const std::vector<std::string> notes = notes_of(report);
  if (!notes.empty()) s += "\n";
  for (const std::string& note : notes) s += note + "\n";
  return s;
}

std::string markdown_of(const Report& report) {
  std::string s = fmt::format("{}\n\n{}", report.model, piped(table_of(report, true)));
  const std::vector<std::string> notes = notes_of(report);
  if (!notes.empty()) s += "\n";
  for (const std::string& note : notes) s += "- " + note + "\n";
  return s;
}

Json json_of(const Report& report) {
  Json j;
  j["model"] = report.model;
  j["settings"] = report.settings;
  j["confidence"] = kConfidence;
  j["complete"] = report.complete();
  Json& tasks = j["tasks"] = Json::array();
  for (const TaskReport& t : report.tasks) {
    Json& task = tasks.emplace_back();
    task = {{"task", t.name}, {"kind", t.kind}, {"metric", name_of(t.metric)}, {"items", t.items}};
    Json& variants = task["variants"] = Json::array();
    for (const Row& r : t.rows) {
      Json v = {{"variant", r.variant}};
      v.update(estimate_json(name_of(t.metric), r.estimate));
      v.update(r.extra);
      v["items_kept"] = r.kept;
      v["prompt_tokens"] = r.tokens;
      v["seconds"] = r.seconds;
      v["complete"] = r.complete;
      variants.push_back(std::move(v));
    }
    Json& comparisons = task["comparisons"] = Json::array();
    for (const Comparison& c : t.comparisons) {
      Json one = {{"variant", c.variant}, {"reference", c.reference}};
      one.update(estimate_json("difference", c.difference));
      one["equal_items"] = c.equal;
      one["verdict"] = c.verdict;
      comparisons.push_back(std::move(one));
    }
    task["notes"] = t.notes;
    Json& skipped = task["skipped"] = Json::array();
    for (const Skipped& s : t.skipped)
      skipped.push_back({{"where", s.where}, {"reason", s.reason}});
  }
  return j;
}

}  // namespace fathom::eval
