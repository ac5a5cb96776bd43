// An engine that plays scripts: the server's tests decide every token and when it comes. It keeps
// the promises of TokenEngine: events on a thread of its own, cancelled within a step, limits.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/token_engine.h"

namespace fathom::test {

// What a request is answered with. After the last token comes the request's first stop id; one
// without stop ids (ignore_eos) hears the tokens again from the start. Tokens that are among the
// stop ids end the answer, max_new_tokens and the context cut it.
struct Script {
  std::vector<int32_t> tokens;
  std::string error = {};  // not empty: instead of the stop token the request fails with it
  bool obeys = true;       // keeps to the request's constraint, which it uses up
};

class ScriptedEngine final : public TokenEngine {
 public:
  struct Options {
    std::chrono::microseconds step{0};  // pace: a token of every running request each
    bool by_hand = false;               // a step only when advance() allows one
    int64_t max_context = 4096;
    int max_seqs = 1024;   // running at once
    int max_queue = 1024;  // waiting beyond them: 429
    std::function<void(const StepReport&)> on_step = {};
  };
  // Called on the thread of submit().
  using Author = std::function<Script(const Request&)>;

  ScriptedEngine(Author author, Options options)
      : author_(std::move(author)), options_(std::move(options)), thread_([this] { run(); }) {}
  explicit ScriptedEngine(Author author) : ScriptedEngine(std::move(author), Options()) {}

  // Requests still running are told nothing: end the server first.
  ~ScriptedEngine() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  Result<RequestId> submit(Request request) override {
    const auto n = static_cast<int64_t>(request.ids.size());
    if (n == 0) return Failure{400, "the prompt is empty"};
    if (n >= options_.max_context)
      return Failure{400, fmt::format("the prompt has {} tokens: at most {} are accepted", n,
                                      options_.max_context - 1)};
    if (request.max_new_tokens < 1)
      return Failure{400, fmt::format("max_new_tokens is {}", request.max_new_tokens)};
    Script script = author_(request);
    std::lock_guard lock(mutex_);
    if (!failure_.empty()) return Failure{503, failure_};
    if (state_.waiting >= options_.max_queue)
      return Failure{429, fmt::format("{} requests wait already", state_.waiting)};
    auto play = std::make_unique<Play>();
    play->id = ++last_id_;
    play->request = std::move(request);
    play->script = std::move(script);
    play->stats.prompt_tokens = n;
    play->submitted = Clock::now();
    inbox_.push_back(std::move(play));
    ++state_.waiting;
    submitted_.push_back(last_id_);
    changed_.notify_all();
    return RequestId{last_id_};
  }

  void cancel(RequestId id) override {
    std::lock_guard lock(mutex_);
    cancels_.push_back(id);
    cancelled_.push_back(id);
    changed_.notify_all();
  }

  EngineSnapshot snapshot() const override {
    std::lock_guard lock(mutex_);
    return state_;
  }
  int64_t context() const override { return options_.max_context; }

  // Allows `steps` more steps (by_hand).
  void advance(int steps = 1) {
    std::lock_guard lock(mutex_);
    allowed_ += steps;
    changed_.notify_all();
  }

  // The machine gives up: every request gets an error, later ones are refused with 503.
  void fail_all(const std::string& why) {
    std::lock_guard lock(mutex_);
    failure_ = why;
    state_.failed = true;
    changed_.notify_all();
  }

  // Every id that submit() gave out, and that cancel() was called for, in order.
  std::vector<RequestId> submitted() const {
    std::lock_guard lock(mutex_);
    return submitted_;
  }
  std::vector<RequestId> cancelled() const {
    std::lock_guard lock(mutex_);
    return cancelled_;
  }
  // Wait for an event; false when it did not come within a minute, which only a bug explains.
  bool wait_submitted(size_t count) const {
    return wait([&] { return submitted_.size() >= count; });
  }
  bool wait_cancelled(size_t count) const {
    return wait([&] { return cancelled_.size() >= count; });
  }
  // Nothing runs and nothing waits.
  bool wait_idle() const {
    return wait([&] { return state_.running == 0 && state_.waiting == 0; });
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Play {
    RequestId id = 0;
    Request request;
    Script script;
    size_t next = 0;
    RequestStats stats;
    Clock::time_point submitted, first;
    bool ended = false;
  };

  template <class Condition>
  bool wait(Condition condition) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(1), condition);
  }

  void run() {
    Clock::time_point due = Clock::now();
    while (begin_step(due)) {
      const Clock::time_point begin = Clock::now();
      StepReport report;
      report.sequences = static_cast<int>(running_.size());
      for (auto& play : running_) {
        report.tokens +=
            play->stats.generated_tokens > 0 ? 1 : static_cast<int>(play->stats.prompt_tokens);
        report.decodes += play->stats.generated_tokens > 0;
        step(*play);
      }
      std::erase_if(running_, [](const auto& play) { return play->ended; });
      report.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      if (options_.on_step) options_.on_step(report);
      end_step(report);
      due += options_.step;
      due = std::max(due, Clock::now() - options_.step);  // late is not caught up with
    }
  }

  // Waits until a step may be made, then lets requests in and cancelled ones out.
  bool begin_step(Clock::time_point due) {
    std::vector<RequestId> cancels;
    std::string failure;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] {
        const bool work = !running_.empty() || !waiting_.empty() || !inbox_.empty();
        return stop_ || (work && (!options_.by_hand || allowed_ > 0 || !failure_.empty() ||
                                  !cancels_.empty()));
      });
      if (!options_.by_hand && options_.step.count() > 0)
        changed_.wait_until(lock, due, [&] { return stop_; });
      if (stop_) return false;
      for (auto& play : inbox_) waiting_.push_back(std::move(play));
      inbox_.clear();
      cancels.swap(cancels_);
      failure = failure_;
      // A step by hand that only takes cancelled ones out costs nothing.
      frozen_ = options_.by_hand && allowed_ == 0;
      if (options_.by_hand && !frozen_) --allowed_;
    }
    while (!waiting_.empty() && running_.size() < static_cast<size_t>(options_.max_seqs)) {
      running_.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
    auto leave = [&](auto& list) {
      for (auto& play : list) {
        if (!failure.empty())
          finish(*play, -1, Finish::error, failure);
        else if (std::find(cancels.begin(), cancels.end(), play->id) != cancels.end())
          finish(*play, -1, Finish::cancelled);
      }
      std::erase_if(list, [](const auto& play) { return play->ended; });
    };
    leave(running_);
    leave(waiting_);
    return true;
  }

  void end_step(const StepReport& report) {
    std::lock_guard lock(mutex_);
    ++state_.steps;
    state_.generated_tokens += report.decodes;
    state_.prompt_tokens += report.tokens - report.decodes;
    state_.running = static_cast<int>(running_.size());
    state_.waiting = static_cast<int>(waiting_.size() + inbox_.size());
    changed_.notify_all();
  }

  void step(Play& play) {
    if (frozen_) return;
    Request& r = play.request;
    const bool over = play.next == play.script.tokens.size();
    if (over && !play.script.error.empty())
      return finish(play, -1, Finish::error, play.script.error);
    if (over && (r.stop_ids.empty() || play.script.tokens.empty())) play.next = 0;
    int32_t token = 0;
    if (play.next < play.script.tokens.size())
      token = play.script.tokens[play.next++];
    else if (!r.stop_ids.empty())
      token = r.stop_ids.front();
    if (r.constraint && play.script.obeys) token = constrained(*r.constraint, token);
    if (play.stats.generated_tokens++ == 0) {
      play.first = Clock::now();
      play.stats.first_token_seconds =
          std::chrono::duration<double>(play.first - play.submitted).count();
    }
    play.stats.decode_seconds = std::chrono::duration<double>(Clock::now() - play.first).count();
    const int64_t known = play.stats.prompt_tokens + play.stats.generated_tokens;
    Finish how = Finish::none;
    if (std::find(r.stop_ids.begin(), r.stop_ids.end(), token) != r.stop_ids.end())
      how = Finish::stop;
    else if (play.stats.generated_tokens >= r.max_new_tokens || known >= options_.max_context)
      how = Finish::length;
    finish(play, token, how);
  }

  // The script's token where it is allowed, else the lowest that is.
  static int32_t constrained(TokenConstraint& constraint, int32_t token) {
    const std::span<const uint64_t> mask = constraint.allowed();
    const auto is_set = [&](size_t i) {
      return i / 64 < mask.size() && (mask[i / 64] >> (i % 64) & 1) != 0;
    };
    if (!mask.empty() && !is_set(static_cast<size_t>(token))) {
      size_t lowest = 0;
      while (lowest < mask.size() * 64 && !is_set(lowest)) ++lowest;
      FATHOM_CHECK(lowest < mask.size() * 64, "a mask of {} words allows nothing", mask.size());
      token = static_cast<int32_t>(lowest);
    }
    constraint.accept(token);
    return token;
  }

  // Log-probabilities that a test can foresee: the token has -0.5, the alternatives are the token
  // and the ids after it, -1 apart.
  static TokenLogprobs logprobs_of(int32_t token, int alternatives) {
    TokenLogprobs l{token, -0.5f, {}};
    for (int i = 0; i < alternatives; ++i)
      l.top.emplace_back(token + i, -0.5f - static_cast<float>(i));
    return l;
  }

  // Tells the sink of `token` (-1: none), and of the end unless `how` is none.
  static void finish(Play& play, int32_t token, Finish how, const std::string& error = {}) {
    const Request& r = play.request;
    TokenEvent event{.id = play.id, .token = token, .finish = how, .error = error};
    event.stats = &play.stats;
    TokenLogprobs logprobs;
    std::vector<TokenLogprobs> prompt;
    if (token >= 0 && r.logprobs >= 0) {
      logprobs = logprobs_of(token, r.logprobs);
      event.logprobs = &logprobs;
    }
    if (play.stats.generated_tokens <= 1 && r.prompt_logprobs) {
      for (size_t i = 1; i < r.ids.size(); ++i)
        prompt.push_back(logprobs_of(r.ids[i], std::max(0, r.logprobs)));
      event.prompt_logprobs = prompt;
    }
    // Two layers: one looks at the first position and the query's own, one at the query's alone.
    Selection selection;
    std::vector<int32_t> both, own;
    if (token >= 0 && r.keep_selection) {
      selection.position = play.stats.prompt_tokens + play.stats.generated_tokens - 2;
      own = {static_cast<int32_t>(selection.position)};
      both = own;
      if (selection.position > 0) both.insert(both.begin(), 0);
      selection.layers = {both, own};
      event.selection = &selection;
    }
    play.ended = how != Finish::none;
    if (r.sink) r.sink(event);
  }

  const Author author_;
  const Options options_;
  // Of the engine's thread alone:
  std::vector<std::unique_ptr<Play>> running_;
  std::deque<std::unique_ptr<Play>> waiting_;
  bool frozen_ = false;

  mutable std::mutex mutex_;  // guards what follows
  mutable std::condition_variable changed_;
  std::vector<std::unique_ptr<Play>> inbox_;
  std::vector<RequestId> cancels_, submitted_, cancelled_;
  EngineSnapshot state_;
  std::string failure_;
  RequestId last_id_ = 0;
  int allowed_ = 0;
  bool stop_ = false;

  std::thread thread_;  // last: everything above is there when it starts
};

}  // namespace fathom::test
