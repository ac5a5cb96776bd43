#include "plan/plan_text.h"

#include <fmt/format.h>

#include <array>

#include "base/units.h"

namespace fathom::plan {
namespace {

std::string gib(int64_t bytes) { return fmt::format("{:.1f}", static_cast<double>(bytes) / kGiB); }

std::string rate(const Speed& s) {
  if (!s.known()) return "-";
  const double v = s.tokens_per_second;
  return v < 100 ? fmt::format("{:.1f}", v) : fmt::format("{:.0f}", v);
}

std::string dollars(const Speed& s) {
  return s.known() ? fmt::format("{:.2f}", s.dollars_per_million) : std::string("-");
}

// 32768 -> "32K"
std::string tokens(int64_t n) {
  return n % 1024 == 0 && n >= 1024 ? fmt::format("{}K", n / 1024) : fmt::format("{}", n);
}

// 1150976 -> "1.15 M"
std::string tokens_short(int64_t n) {
  return n < 1'000'000 ? fmt::format("{}", n)
                       : fmt::format("{:.2f} M", static_cast<double>(n) / 1e6);
}

std::string count(int n, const char* one, const char* many) {
  return fmt::format("{} {}", n, n == 1 ? one : many);
}

std::string machine_line(const Plan& p) {
  const Machine& m = p.machine;
  const std::string what = m.gpu ? fmt::format("{} x {}", m.ranks(), m.gpu->title)
                           : m.parts > 1
                               ? fmt::format("processors: {}, {} to a NUMA node",
                                             count(m.ranks(), "rank", "ranks"), m.parts)
                               : "processors: " + count(m.ranks(), "NUMA node", "NUMA nodes");
  std::string line = what;
  if (m.nodes > 1) line += fmt::format(" in {} machines", m.nodes);
  if (m.processes > 1)
    line += fmt::format(", {} processes of {}", m.processes, count(m.threads, "thread", "threads"));
  line += fmt::format(", {} free{}", bytes_text(m.rank_memory()), m.ranks() > 1 ? " each" : "");
  if (m.read_rate > 0) line += fmt::format(", reads {}", rate_text(m.read_rate));
  return line +
         fmt::format("; ${:.2f} an hour and {}", m.dollars_per_hour, m.gpu ? "GPU" : "machine");
}

const LayoutPlan* first_fitting(const Plan& p) {
  for (const LayoutPlan& l : p.layouts)
    if (l.fits()) return &l;
  return nullptr;
}

// Columns: layout, three sizes, tokens, one a context, three rates, two prices.
std::string row(const std::array<std::string, 10>& cells, const std::string& rooms) {
  std::string line = fmt::format("{:<12}", cells[0]);
  for (size_t i = 1; i < 4; ++i) line += fmt::format("{:>8}", cells[i]);
  line += fmt::format("{:>9} {}", cells[4], rooms);
  for (size_t i = 5; i < 8; ++i) line += fmt::format("{:>11}", cells[i]);
  return line + fmt::format("{:>9}{:>8}\n", cells[8], cells[9]);
}

std::string table(const Plan& p, const LayoutPlan& first) {
  std::string rooms;
  for (const Room& r : first.rooms) rooms += fmt::format("{:>6}", tokens(r.context));
  std::string out =
      fmt::format("{:<12}{:^24}{:>9} {:^{}}{:^22}{:>11}{:>17}\n", "", "GiB of a rank", "cache",
                  "sequences that fit", rooms.size(), "decode, tokens/s", "prompt", "$ a million");
  out += row({"layout", "weights", "work", "cache", "tokens", "1 seq",
              count(p.request.concurrency, "seq", "seqs"), "tokens/s", "decoded", "prompt"},
             rooms);
  bool fewer = false;
  for (const LayoutPlan& l : p.layouts) {
    if (!l.fits()) continue;
    rooms.clear();
    for (const Room& r : l.rooms) rooms += fmt::format("{:>6}", r.sequences);
    std::string together = rate(l.many);
    if (l.sequences < p.request.concurrency && l.many.known()) {
      together += fmt::format(" ({})", l.sequences);
      fewer = true;
    }
    out += row({l.name, gib(l.memory.weights), gib(l.memory.workspace), gib(l.memory.cache),
                tokens_short(l.cache_tokens), rate(l.one), together, rate(l.prompt),
                dollars(l.many), dollars(l.prompt)},
               rooms);
  }
  return out + fmt::format("speeds at a context of {} tokens{}{}\n", first.context,
                           fewer ? ", with as many sequences (in brackets) as fit there" : "",
                           p.machine.gpu ? "; without drafts of the MTP layer" : "");
}

}  // namespace

std::string text_of(const Plan& p) {
  const double gb = static_cast<double>(p.checkpoint) / 1e9;
  const std::string bytes = bytes_text(p.checkpoint);
  std::string out =
      fmt::format("model: checkpoint of {}\nmachine: {}\n\n",
                  gb < 1 ? bytes : fmt::format("{:.0f} GB ({})", gb, bytes), machine_line(p));
  if (const LayoutPlan* first = first_fitting(p)) out += table(p, *first) + "\n";
  for (const LayoutPlan& l : p.layouts)
    if (!l.fits()) out += fmt::format("{} cannot be run: {}\n", l.name, l.refused);
  if (const LayoutPlan* best = p.best()) {
    out += fmt::format("recommended: {} ({})\n", best->name, p.why);
    for (const std::string& command : p.commands) out += "    " + command + "\n";
  } else if (!p.would_fit.empty()) {
    out += fmt::format("would fit: {}\n", fmt::join(p.would_fit, "; "));
  }
  for (const std::string& note : p.notes) out += fmt::format("note: {}\n", note);
  return out;
}

std::string summary_of(const Plan& p, const LayoutPlan& l) {
  std::string out = fmt::format("plan: {} on {}\n", l.name, machine_line(p));
  if (!l.fits()) return out;
  out += fmt::format(
      "plan: a rank has {} of weights, {} of workspace, {} of cache; {} tokens in all\n",
      bytes_text(l.memory.weights), bytes_text(l.memory.workspace), bytes_text(l.memory.cache),
      l.cache_tokens);
  if (l.one.known())
    out += fmt::format("plan: at {} tokens of context {} tokens/s for one sequence, {} for {}\n",
                       l.context, rate(l.one), rate(l.many), l.sequences);
  return out;
}

}  // namespace fathom::plan
