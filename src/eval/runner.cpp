#include "eval/runner.h"

#include <algorithm>
#include <chrono>
#include <list>
#include <utility>

#include "cache/kv_pool.h"

namespace fathom::eval {
namespace {

using Clock = std::chrono::steady_clock;

// An item whose requests are in flight.
struct Pending {
  size_t item = 0;
  std::vector<Ask> asks;
  std::vector<Outcome> outcomes;
  std::vector<int64_t> to_compute;  // tokens of each prompt, until its first token has come
  std::vector<size_t> held;         // requests that wait for the first one's prompt
  size_t open = 0;                  // requests that have not ended
  std::string error;                // the first request that failed, and why
};

// Whether `other` can reuse pages of `first` once they are computed. Tokens from score_from on need
// their logits, so they have to be computed in any case.
bool shares_pages(const Ask& first, const Ask& other) {
  const auto [end, unused] =
      std::mismatch(first.ids.begin(), first.ids.end(), other.ids.begin(), other.ids.end());
  int64_t same = end - first.ids.begin();
  if (other.score_from > 0) same = std::min(same, other.score_from - 1);
  return same >= kPageRows;
}

class Run {
 public:
  Run(Engine* engine, const Task& task, const RunLabel& label, ResultsFile& results,
      const RunOptions& options)
      : engine_(engine),
        task_(task),
        label_(label),
        results_(results),
        options_(options),
        kept_(results.find(label.run)) {
    std::erase_if(kept_, [&](const auto& entry) { return entry.first >= task.size(); });
    result_.kept = kept_.size();
    result_.skipped = task.skipped();
    progress().items = task.size();
    progress().done = kept_.size();
    for (size_t i = 0; i < task.size(); ++i)
      if (!kept_.contains(i))
        for (const Ask& ask : task.asks(i)) progress().tokens += tokens_of(ask);
  }

  RunResult run() {
    const auto start = Clock::now();
    const EngineStats at_start = engine_ ? engine_->stats() : EngineStats{};
    const int64_t before = at_start.prompt_tokens + at_start.reused_tokens;
    for (;;) {
      if (options_.stopped && options_.stopped()) {
        result_.complete = progress().done + refused_ == task_.size();
        break;
      }
      if (progress().done == task_.size()) break;
      fill();
      const bool busy = engine_->step();
      submit_held();
      collect();
      const EngineStats stats = engine_->stats();
      progress().tokens_computed =
          std::min(progress().tokens, stats.prompt_tokens + stats.reused_tokens - before);
      progress().seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (options_.progress) options_.progress(progress());
      if (!busy && pending_.empty() && next_ == task_.size()) break;
    }
    give_up();
    for (auto& [item, record] : kept_) result_.records.push_back(std::move(record));
    return std::move(result_);
  }

 private:
  Progress& progress() { return result_.progress; }
  static int64_t tokens_of(const Ask& ask) { return static_cast<int64_t>(ask.ids.size()); }

  void fill() {
    for (; next_ < task_.size() && has_room(); ++next_) {
      if (kept_.contains(next_)) continue;
      Pending& p = pending_.emplace_back();
      p.item = next_;
      p.asks = task_.asks(next_);
      p.outcomes.resize(p.asks.size());
      p.to_compute.resize(p.asks.size());
      submit(p, 0);
      for (size_t i = 1; i < p.asks.size(); ++i)
        if (shares_pages(p.asks[0], p.asks[i]))
          p.held.push_back(i);
        else
          submit(p, i);
    }
  }

  // Submits requests that were held back until the first one's prompt was computed: side by side,
  // each would compute their common part.
  void submit_held() {
    for (Pending& p : pending_) {
      if (p.held.empty() || p.to_compute[0] > 0) continue;
      for (size_t i : std::exchange(p.held, {}))
        if (p.error.empty()) submit(p, i);
    }
  }

  bool has_room() const {
    return open_ == 0 || (open_ < options_.at_once && to_compute_ < options_.prompt_tokens);
  }

  void submit(Pending& p, size_t which) {
    const Ask& ask = p.asks[which];
    Request r;
    r.ids = ask.ids;
    r.max_new_tokens = ask.max_new_tokens;
    r.sampling = ask.sampling;
    r.stop_ids = options_.stop_ids;
    if (ask.score_from > 0) {
      r.logprobs = 0;
      r.prompt_logprobs = true;
      r.prompt_logprobs_from = ask.score_from;
    }
    r.keep_selection = options_.watch_selection && ask.watched.size() > 0;
    r.sink = [this, &p, which](const TokenEvent& e) { take(p, which, e); };
    if (const Result<RequestId> id = engine_->submit(std::move(r)); id.ok()) {
      ids_.push_back(id.value());
      ++p.open;
      ++open_;
      p.to_compute[which] = tokens_of(ask);
      to_compute_ += tokens_of(ask);
    } else if (p.error.empty()) {
      p.error = id.failure().message;
    }
  }

  void take(Pending& p, size_t which, const TokenEvent& e) {
    Outcome& out = p.outcomes[which];
    to_compute_ -= std::exchange(p.to_compute[which], 0);  // with its first event
    for (const TokenLogprobs& l : e.prompt_logprobs) out.logprobs.push_back(l.logprob);
    if (e.selection) watch(p.asks[which].watched, *e.selection, out);
    if (e.token >= 0 && e.finish != Finish::stop) out.answer.push_back(e.token);
    if (e.finish == Finish::none) return;
    out.ended = e.finish == Finish::stop;
    const double events = static_cast<double>(out.answer.size() + (out.ended ? 1 : 0));
    for (double& share : out.picked) share /= events;
    if (e.finish == Finish::error && p.error.empty()) p.error = e.error;
    progress().tokens_done += tokens_of(p.asks[which]);
    --p.open;
    --open_;
  }

  static void watch(TokenRange watched, const Selection& selection, Outcome& out) {
    out.picked.resize(selection.layers.size());
    for (size_t layer = 0; layer < selection.layers.size(); ++layer) {
      const auto picks = selection.layers[layer];  // ascending
      const auto begin = std::lower_bound(picks.begin(), picks.end(), watched.begin);
      const auto end = std::lower_bound(picks.begin(), picks.end(), watched.end);
      out.picked[layer] += static_cast<double>(end - begin) / static_cast<double>(watched.size());
    }
  }

  // Items whose last request has ended.
  void collect() {
    std::erase_if(pending_, [&](Pending& p) {
      if (p.open > 0 || !p.held.empty()) return false;
      if (!p.error.empty()) {
        result_.skipped.push_back({task_.where(p.item), p.error});
        ++refused_;
        return true;
      }
      Record record = task_.judge(p.item, p.outcomes);
      record.item = p.item;
      results_.append(label_, task_.where(p.item), record);
      kept_.emplace(p.item, std::move(record));
      ++progress().done;
      return true;
    });
  }

  // Cancels all requests and waits: none may outlive the memory that its sink writes to.
  void give_up() {
    if (open_ == 0) return;
    for (RequestId id : ids_) engine_->cancel(id);
    while (engine_->step()) {
    }
  }

  Engine* engine_;
  const Task& task_;
  const RunLabel& label_;
  ResultsFile& results_;
  const RunOptions& options_;
  std::map<size_t, Record> kept_;
  std::list<Pending> pending_;  // sinks point into it
  std::vector<RequestId> ids_;
  size_t next_ = 0, refused_ = 0;
  int open_ = 0;
  int64_t to_compute_ = 0;  // tokens of prompts, of all requests
  RunResult result_;
};

}  // namespace

RunResult run_task(Engine* engine, const Task& task, const RunLabel& label, ResultsFile& results,
                   const RunOptions& options) {
  return Run(engine, task, label, results, options).run();
}

}  // namespace fathom::eval
