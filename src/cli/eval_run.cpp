#include "cli/eval_run.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <map>

#include "base/output_file.h"
#include "cli/command.h"
#include "cli/signals.h"
#include "eval/runner.h"

namespace fathom::cli {
namespace {

using eval::Report;
using eval::TaskReport;
using eval::VariantResult;
using Clock = std::chrono::steady_clock;

constexpr int kInterrupted = 130;    // as a shell says of a program that Ctrl-C ended
constexpr size_t kSkippedTold = 20;  // lines; --json has all
constexpr int64_t kLogitBytes = int64_t{1} << 30;

std::string time_text(double seconds) {
  const int64_t s = std::llround(seconds);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

// One line on standard error that is written over on a terminal; elsewhere a line now and then.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what) : what_(std::move(what)) {}
  ~ProgressLine() { clear(); }

  void show(const eval::Progress& p) {
    const auto now = Clock::now();
    if (now - last_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(30)))
      return;
    last_ = now;
    const double rate = static_cast<double>(p.tokens_computed) / std::max(1e-9, p.seconds);
    std::string line = fmt::format("{}: {} of {} items", what_, p.done, p.items);
    if (p.tokens_computed > 0)
      line += fmt::format(", {:.0f} tokens/s, {} left", rate,
                          time_text(static_cast<double>(p.tokens - p.tokens_computed) / rate));
    fmt::print(stderr, "{}{}{}", terminal_ ? "\r\033[K" : "", line, terminal_ ? "" : "\n");
    shown_ = terminal_;
  }

 private:
  void clear() {
    if (shown_) fmt::print(stderr, "\r\033[K");
  }

  std::string what_;
  bool terminal_ = isatty(STDERR_FILENO) != 0, shown_ = false;
  Clock::time_point last_ = Clock::now();
};

// One checkpoint with its tasks.
struct Subject {
  EvalModel model;
  Tasks tasks;

  Subject(const Variant& variant, const MakeTasks& make)
      : model(variant), tasks(make({model.tokenizer(), model.encoding(), model.config()})) {}
};

// The engine options that the tasks of a checkpoint need.
EngineOptions engine_options(const Subject& subject, const Variant& v) {
  const Config& config = subject.model.config();
  EngineOptions e;
  e.keep_prefixes = true;  // choices of one question begin alike
  for (const auto& task : subject.tasks)
    e.keep_selection |=
        task->kind() == "needles" && config.has_indexer() && v.model.compute.attention != "dense";
  // Perplexity needs the logits of every token, so a step may have as many rows of logits as memory
  // allows.
  e.max_prompt_rows =
      static_cast<int>(std::clamp<int64_t>(kLogitBytes / (4 * int64_t{config.vocab}), 64, 1 << 16));
  return e;
}

int64_t longest_of(const Subject& subject) {
  int64_t most = 2;
  for (const auto& task : subject.tasks) most = std::max(most, eval::longest(*task));
  return std::min<int64_t>(most, subject.model.config().max_positions);
}

// How a variant is computed, for the JSON.
eval::Json how_text(const Variant& v, const ComputePlan& plan) {
  return {{"variant", v.name},
          {"checkpoint", v.folder},
          {"device", name_of(plan.device)},
          {"numerics", name_of(plan.numerics)},
          {"kv", name_of(plan.latent_format())},
          {"attention", name_of(plan.attention)},
          {"kernels", plan.kernels},
          {"batch_invariant", plan.batch_invariant}};
}

class Runs {
 public:
  Runs(const EvalRunOptions& o, const MakeTasks& make)
      : make_(make), seed_(o.seed), variants_(o.variants.variants()), results_(o.results) {
    signals_.listen([this](int count) {
      stopped_ = true;
      if (count > 1) ::_exit(kInterrupted);  // results are written a line at a time
    });
  }

  Report run() {
    // What one of the variants cannot do is told before the first item of any is computed.
    for (Variant v : variants_) prepare(v, subject_of(v));
    std::vector<std::vector<VariantResult>> by_task;
    for (const Variant& v : variants_) {
      Subject& subject = subject_of(v);
      by_task.resize(subject.tasks.size());
      run_variant(v, subject, by_task);
    }
    Report report;
    report.model = variants_.front().folder;
    for (size_t i = 1; i < variants_.size(); ++i)
      if (variants_[i].folder != report.model) report.model += ", " + variants_[i].folder;
    report.settings = {{"seed", seed_}, {"variants", how_}};
    for (const auto& results : by_task) {
      report.tasks.push_back(eval::report_of(results));
      if (attention_is_compared()) note_selection(*results[0].task, report.tasks.back());
    }
    return report;
  }
  bool stopped() const { return stopped_; }

 private:
  bool attention_is_compared() const {
    return variants_.front().model.compute.attention != variants_.back().model.compute.attention;
  }

  // Equal results of short texts are no evidence.
  void note_selection(const eval::Task& task, TaskReport& report) {
    const int64_t picks = subject_of(variants_.front()).model.config().index_topk;
    if (eval::longest(task) <= picks)
      report.notes.push_back(fmt::format(
          "no text is longer than the {} tokens that the indexer picks: sparse attention is dense",
          picks));
  }

  Subject& subject_of(const Variant& v) {
    auto& place = subjects_[v.folder];
    if (!place) place = std::make_unique<Subject>(v, make_);
    return *place;
  }

  static PageKey prepare(Variant& v, Subject& subject) {
    v.model.compute.context = longest_of(subject);
    return subject.model.prepare(v, engine_options(subject, v));
  }

  void run_variant(Variant v, Subject& subject, std::vector<std::vector<VariantResult>>& by_task) {
    const PageKey origin = prepare(v, subject);
    how_.push_back(how_text(v, subject.model.options().compute));
    Engine* engine = nullptr;  // started for the first task that is not complete already
    for (size_t t = 0; t < subject.tasks.size(); ++t) {
      const eval::Task& task = *subject.tasks[t];
      PageKey run = task.key();
      run = extended(extended(run, origin.a), origin.b);
      VariantResult result{v.name, &task, {}};
      const eval::RunLabel label{run, task.name(), v.name};
      if (!stopped_ && results_.find(run).size() < task.size() && !engine)
        engine = &subject.model.start();
      result.run = run_one(engine, v, subject, task, label);
      by_task[t].push_back(std::move(result));
    }
    subject.model.stop();
  }

  eval::RunResult run_one(Engine* engine, const Variant& v, const Subject& subject,
                          const eval::Task& task, const eval::RunLabel& label) {
    ProgressLine line(variants_.size() > 1 ? fmt::format("{}, {}", task.name(), v.name)
                                           : task.name());
    eval::RunOptions run;
    const ComputePlan& plan = subject.model.options().compute;
    run.at_once = 2 * plan.sequences;
    run.prompt_tokens = 2 * int64_t{plan.step_tokens};
    run.stop_ids = subject.model.stop_ids();
    run.watch_selection = subject.model.options().keep_selection;
    run.progress = [&](const eval::Progress& p) { line.show(p); };
    run.stopped = [this] { return stopped_.load(); };
    return eval::run_task(engine, task, label, results_, run);
  }

  const MakeTasks& make_;
  const uint64_t seed_;
  eval::Json how_ = eval::Json::array();
  std::atomic<bool> stopped_ = false;
  EndSignals signals_;  // before any thread starts
  std::vector<Variant> variants_;
  eval::ResultsFile results_;
  std::map<std::string, std::unique_ptr<Subject>> subjects_;
};

void tell_skipped(const Report& report) {
  size_t told = 0;
  for (const TaskReport& t : report.tasks)
    for (const eval::Skipped& s : t.skipped)
      if (++told <= kSkippedTold) fmt::print(stderr, "skipped: {}: {}\n", s.where, s.reason);
  if (told > kSkippedTold)
    fmt::print(stderr, "skipped: {} more (--json names all)\n", told - kSkippedTold);
}

// A run may take hours: what cannot be written afterwards is told before.
void check_outputs(const EvalRunOptions& o) {
  for (const std::string& path : {o.save, o.markdown, o.svg})
    if (!path.empty()) check_output_file(path);
}

bool all_measured(const Report& report) {
  for (const TaskReport& t : report.tasks)
    for (const eval::Row& r : t.rows)
      if (r.estimate.items == 0) return false;
  return true;
}

}  // namespace

void EvalRunOptions::add_to(CLI::App& command) {
  variants.add_to(command);
  command
      .add_option("--results", results,
                  "file that every result is appended to; with the same file the same command goes "
                  "on where it ended")
      ->type_name("FILE");
  command.add_option("--seed", seed, "the same seed asks and draws the same")
      ->capture_default_str();
  command.add_flag("--json", json, "print one JSON object instead of a table");
  command.add_option("--save-result", save, "write the JSON object to this file")
      ->type_name("FILE");
  command.add_option("--markdown", markdown, "write the table to this file as Markdown")
      ->type_name("FILE");
}

void EvalRunOptions::add_svg(CLI::App& command, const std::string& what) {
  command.add_option("--svg", svg, what)->type_name("FILE");
}

int run_eval(const EvalRunOptions& o, const MakeTasks& make, const DrawReport& draw) {
  check_outputs(o);
  Runs runs(o, make);
  const Report report = runs.run();
  tell_skipped(report);
  const std::string json =
      eval::json_of(report).dump(2, ' ', false, eval::Json::error_handler_t::replace);
  fmt::print("{}\n", o.json ? json : eval::text_of(report));  // first: a file may fail
  if (!o.save.empty()) write_output_file(o.save, json + "\n");
  if (!o.markdown.empty()) write_output_file(o.markdown, eval::markdown_of(report));
  if (!o.svg.empty()) write_output_file(o.svg, draw(report));
  if (!report.complete()) {
    fmt::print(stderr, "fathom: stopped; {}\n",
               o.results.empty() ? "--results FILE would have kept what is done"
                                 : "the same command goes on where it ended");
    return kInterrupted;
  }
  return all_measured(report) ? 0 : 1;
}

}  // namespace fathom::cli
