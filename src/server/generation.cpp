#include "server/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <random>
#include <utility>

#include "server/answer_constraint.h"
#include "server/choice_reader.h"

namespace fathom::server {
namespace {

using Clock = std::chrono::steady_clock;
using Listener = std::function<void(const GenerationEvent&)>;

// The most choices of one request that the engine has at a time; the others wait here. A long list
// of prompts must not fill the engine's queue: its own later prompts would be refused, and so would
// everybody else's requests.
constexpr size_t kMostUnderWay = 128;
// After this time a request that found the engine's queue full submits again.
constexpr double kRetrySeconds = 0.05;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

uint64_t random_u64() {
  std::random_device random;
  return (uint64_t{random()} << 32) | random();
}

int64_t tokens_of_prompt(const GenerationRequest& r) {
  return static_cast<int64_t>(r.prompt.size());
}

// The choices of one API request. The engine's thread puts tokens into a queue; everything else
// happens in tasks of the reply, so only what the two share needs a mutex. Kept alive by the sinks
// that the engine holds and by posted tasks.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(Service& service, std::shared_ptr<HttpReply> reply,
             std::vector<GenerationRequest> requests, Listener listen)
      : service_(service),
        requests_(std::move(requests)),
        listen_(std::move(listen)),
        n_(requests_.front().n),
        reply_(std::move(reply)) {
    choices_.reserve(requests_.size() * static_cast<size_t>(n_));
    for (size_t p = 0; p < requests_.size(); ++p) {
      if (!requests_[p].seed) requests_[p].seed = random_u64();
      for (int i = 0; i < n_; ++i)
        choices_.emplace_back(service_, requests_[p], requests_.front().id,
                              static_cast<int>(choices_.size()));
    }
    open_ = choices_.size();
  }

  std::optional<Failure> start() {
    for (const GenerationRequest& r : requests_) {
      if (r.prompt.empty()) return Failure{400, "the prompt is empty"};
      require_room(r, service_.engine.context());
    }
    const GenerationRequest& first = requests_.front();
    if (first.max_tokens > room_for(first)) reply_->note("max_tokens_cut_to", room_for(first));
    if (auto failure = submit_next()) {
      silence();
      finish();
      return failure;
    }
    watch();
    return std::nullopt;
  }

 private:
  struct Choice {
    Choice(const Service& service, const GenerationRequest& request, const std::string& id,
           int index)
        : reader(service, request, id, index) {}
    ChoiceReader reader;
    RequestId request_id = 0;
    bool submitted = false;
    bool heard = false;          // its first token is there
    bool followed = false;       // a prompt's first: the others are in siblings_
    Clock::time_point last;      // when its last token came
    GenerationEvent event = {};  // being put together
    bool has_event = false;
  };
  struct Queued {
    size_t choice;
    Clock::time_point when;
    KeptToken token;
  };

  const GenerationRequest& request_of(size_t choice) const {
    return requests_[choice / static_cast<size_t>(n_)];
  }

  // What the prompt leaves of the context.
  int64_t room_for(const GenerationRequest& r) const {
    return service_.engine.context() - tokens_of_prompt(r);
  }
  // Whether the context ends the answer before max_tokens does.
  bool ends_with_context(const GenerationRequest& r) const {
    return r.max_tokens == 0 || r.max_tokens > room_for(r);
  }

  std::optional<Failure> submit(size_t choice) {
    const GenerationRequest& r = request_of(choice);
    const size_t sibling = choice % static_cast<size_t>(n_);
    Request out;
    out.ids = r.prompt;
    out.max_new_tokens = ends_with_context(r) ? room_for(r) : r.max_tokens;
    out.sampling = r.sampling;
    out.sampling.seed = *r.seed + sibling;
    out.rules = r.rules;
    if (!r.ignore_eos) out.stop_ids = service_.options.stop_ids;
    out.stop_ids.insert(out.stop_ids.end(), r.stop_token_ids.begin(), r.stop_token_ids.end());
    out.logprobs = r.logprobs;
    out.prompt_logprobs = r.prompt_logprobs && sibling == 0;
    out.priority = r.priority;
    if (r.form) out.constraint = make_answer_constraint(service_.constraints, r.form);
    // The selection is kept of one sequence a request, the first choice's, under the request's id.
    const bool keep = service_.options.keep_selection && choice == 0 && !r.id.empty();
    if (keep) service_.selections.begin(r.id, r.prompt);
    out.keep_selection = keep;
    out.sink = [self = shared_from_this(), choice](const TokenEvent& event) {
      self->hear(choice, event);
    };
    Result<RequestId> id = service_.engine.submit(std::move(out));
    if (!id.ok()) {
      if (keep) service_.selections.forget(r.id);
      return id.failure();
    }
    choices_[choice].request_id = id.value();
    choices_[choice].submitted = true;
    return std::nullopt;
  }

  // Hands the engine what it has room for: further choices of prompts that have been computed, then
  // the next prompts. The first of a request may be refused; the others wait while the queue is
  // full, so that a request that was let in is not refused half-way.
  std::optional<Failure> submit_next() {
    waits_for_room_ = false;
    while (under_way_ < kMostUnderWay) {
      const bool sibling = !siblings_.empty();
      const size_t choice = sibling ? siblings_.front() : next_prompt_ * static_cast<size_t>(n_);
      if (choice >= choices_.size()) break;
      if (auto failure = submit(choice)) {
        if (failure->status != 429 || !admitted_) return failure;
        waits_for_room_ = true;
        break;
      }
      admitted_ = true;
      ++under_way_;
      if (sibling)
        siblings_.pop_front();
      else
        ++next_prompt_;
    }
    return std::nullopt;
  }

  // Called on the engine's thread.
  void hear(size_t choice, const TokenEvent& event) {
    if (silent_.load(std::memory_order_relaxed)) return;
    if (event.selection && event.token >= 0)
      service_.selections.append(request_of(choice).id, event.token, *event.selection,
                                 event.drafted);
    Queued queued{choice, Clock::now(), KeptToken::of(event)};
    std::shared_ptr<HttpReply> wake;
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(queued));
      if (!std::exchange(wake_pending_, true)) wake = reply_;
    }
    if (wake) wake->post([self = shared_from_this()] { self->drain(); });
  }

  // Registers for what can end the request from outside. The pointers are weak because this object
  // owns the reply: owning each other, neither would ever be freed.
  void watch() {
    const auto weak = weak_from_this();
    reply_->on_abandoned([weak] {
      if (const auto self = weak.lock()) self->abandon();
    });
    reply_->on_stopping([weak] {
      if (const auto self = weak.lock())
        self->fail_all({503, "the server is shutting down: the answer is not complete"});
    });
    set_timer();
  }

  // The reply has one timer. It is set to the next try to submit, if one is due, else to the time
  // limit.
  void set_timer() {
    const double limit = service_.options.request_seconds;
    const double left = limit - seconds_between(requests_.front().arrival, Clock::now());
    const bool retry = waits_for_room_ && (limit <= 0 || left > kRetrySeconds);
    if (!retry && limit <= 0) return;
    const auto weak = weak_from_this();
    reply_->post_after(retry ? kRetrySeconds : std::max(0.0, left), [weak, retry, limit] {
      const auto self = weak.lock();
      if (!self || self->silent_) return;
      if (retry) return self->go_on();
      self->fail_all({504, fmt::format("the answer was not complete after the {} seconds that "
                                       "this server gives a request",
                                       limit)});
    });
  }

  void go_on() {
    const bool waited = waits_for_room_;
    if (auto failure = submit_next()) return fail_all(*failure);
    if (waited || waits_for_room_) set_timer();
  }

  void drain() {
    {
      const std::lock_guard lock(mutex_);
      std::swap(queue_, work_);
      wake_pending_ = false;
    }
    for (Queued& queued : work_) {
      if (silent_) break;
      take(queued);
    }
    work_.clear();
    const size_t open_before = open_;
    for (size_t c = 0; c < choices_.size() && !silent_; ++c) deliver(c);
    // While the engine's queue is full, submit again when the timer fires or when a choice has
    // ended and made room, not with every token.
    if (!silent_ && (!waits_for_room_ || open_ < open_before)) go_on();
  }

  void take(Queued& queued) {
    Choice& choice = choices_[queued.choice];
    if (choice.reader.ended()) return;  // generated before the engine was told to stop
    if (queued.token.token >= 0) observe_token(queued.choice, queued.when);
    choice.reader.take(std::move(queued.token), choice.event);
    choice.has_event = true;
    if (choice.event.finish_reason == "length")
      choice.event.context_full = ends_with_context(request_of(queued.choice));
    // The engine goes on unless it has ended the choice itself.
    if (choice.reader.ended()) {
      --under_way_;
      if (choice.reader.stopped()) service_.engine.cancel(choice.request_id);
      observe_end(choice, choice.event.finish_reason);
    }
  }

  void observe_token(size_t index, Clock::time_point when) {
    Choice& choice = choices_[index];
    if (choice.heard)
      service_.metrics.observe_token_gap(seconds_between(choice.last, when));
    else if (index % static_cast<size_t>(n_) == 0)
      service_.metrics.observe_first_token(seconds_between(request_of(index).arrival, when));
    choice.heard = true;
    choice.last = when;
  }

  void observe_end(const Choice& choice, std::string_view reason) {
    service_.metrics.observe_end(reason, choice.reader.stats(),
                                 seconds_between(requests_.front().arrival, Clock::now()));
    service_.metrics.count_unreadable_calls(choice.reader.unreadable_calls());
  }

  void deliver(size_t index) {
    Choice& choice = choices_[index];
    if (!choice.has_event) return;
    choice.has_event = false;
    const GenerationEvent event = std::exchange(choice.event, {});
    // The tokens so far may have no text yet: half a character, the beginning of a marker.
    const bool quiet = event.pieces.empty() && event.logprobs.empty() &&
                       event.prompt_logprobs.empty() && !event.ended;
    if (event.ended && open_ == 1) note_tokens();
    if (!quiet) listen_(event);
    if (event.failure) return fail_all(*event.failure);
    if (event.ended && --open_ == 0) return finish();
    // A prompt's other choices are submitted when its cache is filled, which its first token shows.
    const auto n = static_cast<size_t>(n_);
    if (index % n != 0 || !(choice.heard || event.ended)) return;
    if (std::exchange(choice.followed, true)) return;
    for (size_t c = index + 1; c < index + n; ++c) siblings_.push_back(c);
  }

  // Ends every choice that has not ended.
  void fail_all(const Failure& failure) {
    if (silent_) return;
    silent_ = true;
    note_tokens();
    for (Choice& choice : choices_) {
      if (choice.reader.ended()) continue;
      if (choice.submitted) {
        service_.engine.cancel(choice.request_id);
        observe_end(choice, "error");
      }
      GenerationEvent event;
      choice.reader.fail(failure, event);
      listen_(event);
    }
    finish();
  }

  void abandon() {
    if (silent_) return;
    for (const Choice& choice : choices_)
      if (choice.submitted && !choice.reader.ended()) observe_end(choice, "cancelled");
    note_tokens();
    silence();
    finish();
  }

  // Cancels what runs and hears no more of it.
  void silence() {
    silent_ = true;
    for (const Choice& choice : choices_)
      if (choice.submitted && !choice.reader.ended()) service_.engine.cancel(choice.request_id);
  }

  // For the log line, which is written when the answer is complete.
  void note_tokens() {
    int64_t prompt = 0, generated = 0;
    for (size_t c = 0; c < choices_.size(); ++c) {
      const RequestStats& stats = choices_[c].reader.stats();
      if (c % static_cast<size_t>(n_) == 0) prompt += stats.prompt_tokens;
      generated += stats.generated_tokens;
    }
    reply_->note("prompt_tokens", prompt);
    reply_->note("completion_tokens", generated);
  }

  // Stops listening. The engine may hold this object until after the server has ended, so the reply
  // is let go of here.
  void finish() {
    silent_ = true;
    std::shared_ptr<HttpReply> reply;
    {
      const std::lock_guard lock(mutex_);
      reply.swap(reply_);
    }
    listen_ = nullptr;
  }

  Service& service_;
  std::vector<GenerationRequest> requests_;
  Listener listen_;
  const int n_;
  std::vector<Choice> choices_;
  size_t open_ = 0;              // choices that have not ended
  size_t under_way_ = 0;         // choices that the engine has
  size_t next_prompt_ = 0;       // the first that has not been submitted
  std::deque<size_t> siblings_;  // choices to submit before it
  bool admitted_ = false;        // something has been submitted
  bool waits_for_room_ = false;  // the engine's queue was full at the last try
  std::vector<Queued> work_;
  std::atomic<bool> silent_{false};  // nothing is listened to any more

  std::mutex mutex_;                  // guards what follows
  std::shared_ptr<HttpReply> reply_;  // null when the request is over
  std::vector<Queued> queue_;
  bool wake_pending_ = false;  // a drain() has been posted
};

}  // namespace

void require_room(const GenerationRequest& request, int64_t context) {
  const int64_t prompt = tokens_of_prompt(request);
  if (prompt >= context) throw PromptTooLong(prompt, context);
}

std::optional<Failure> start_generation(Service& service, std::shared_ptr<HttpReply> reply,
                                        std::vector<GenerationRequest> requests,
                                        std::function<void(const GenerationEvent&)> listen) {
  FATHOM_CHECK(!requests.empty() && requests.front().n > 0, "{} requests", requests.size());
  return std::make_shared<Generation>(service, std::move(reply), std::move(requests),
                                      std::move(listen))
      ->start();
}

std::optional<Failure> start_generation(Service& service, std::shared_ptr<HttpReply> reply,
                                        GenerationRequest request,
                                        std::function<void(const GenerationEvent&)> listen) {
  std::vector<GenerationRequest> requests;
  requests.push_back(std::move(request));
  return start_generation(service, std::move(reply), std::move(requests), std::move(listen));
}

std::string new_id(std::string_view prefix) {
  return fmt::format("{}{:016x}{:08x}", prefix, random_u64(), random_u64() >> 32);
}

std::string tool_call_id(std::string_view id, int choice, size_t call) {
  const size_t random = id.find_last_of("-_");
  if (random != id.npos) id.remove_prefix(random + 1);
  return fmt::format("call_{}{:02x}{:02x}", id, choice, call);
}

}  // namespace fathom::server
