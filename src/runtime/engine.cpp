#include "runtime/engine.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/error.h"
#include "base/thread_pool.h"
#include "io/machine.h"
#include "runtime/kv_pool.h"
#include "runtime/memory_plan.h"
#include "runtime/page_allocator.h"
#include "runtime/prefix_cache.h"
#include "runtime/sampler.h"
#include "runtime/scheduler.h"
#include "runtime/sequence.h"
#include "runtime/step_runner.h"

namespace fathom {
namespace {

double seconds_between(Sequence::Clock::time_point from, Sequence::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

ForwardOptions forward_options(const EngineOptions& o, int64_t max_context) {
  ForwardOptions f;
  f.numerics = o.numerics;
  f.attention = o.attention;
  f.max_tokens = o.max_step_tokens;
  f.max_context = max_context;
  return f;
}

RunnerSetup setup_of(const Config& config, const EngineOptions& o, int64_t max_context) {
  RunnerSetup s;
  s.config = &config;
  s.ops.device = o.device;
  s.ops.kernels = o.kernels;
  s.ops.gpu.batch_invariant = o.batch_invariant;
  s.ops.gpu.max_sequences = step_sequences(o.max_seqs);
  s.forward = forward_options(o, max_context);
  s.index_budget = o.index_budget;
  s.max_seqs = o.max_seqs;
  s.cache = kv_shape(config, o.numerics, o.kv, false);
  return s;
}

const EngineOptions& usable(const EngineOptions& o) {
  if (o.max_seqs < 1) fail("{} sequences at once: at least 1 is needed", o.max_seqs);
  if (o.max_step_tokens < 1) fail("{} tokens a step: at least 1 is needed", o.max_step_tokens);
  if (o.max_context < 0) fail("a context of {} tokens: at least 1 is needed", o.max_context);
  return o;
}

std::unique_ptr<StepRunner> make_runner(const Config& config, const Weights& weights,
                                        const EngineOptions& o, const MemoryPlan& plan,
                                        ThreadPool& pool) {
  RunnerSetup s = setup_of(config, o, plan.max_context);
  s.weights = &weights;
  s.pages = plan.pages;
  return make_step_runner(s, pool);
}

}  // namespace

MemoryPlan plan_engine(const Config& config, const EngineOptions& o) {
  const bool gpu = o.device == DeviceKind::cuda;
  MemoryNeeds needs;
  needs.weights = o.weight_bytes;
  // Workspace grows with the context; one that is not named yet is at most the model's own.
  needs.workspace =
      runner_bytes(setup_of(config, o, o.max_context > 0 ? o.max_context : config.max_positions));
  needs.cache = kv_shape(config, o.numerics, o.kv, false);
  needs.max_positions = config.max_positions;
  needs.max_context = o.max_context;
  needs.max_seqs = o.max_seqs;
  needs.cache_tokens = o.cache_tokens;
  int64_t available = gpu ? static_cast<int64_t>(device_memory_free()) : available_memory();
  if (gpu) needs.keep_free = 0.02;  // fragments and recorded graphs; nobody else is expected there
  return plan_memory(needs, o.available_bytes.value_or(available));
}

class Engine::Impl {
 public:
  Impl(const Config& config, const Weights& weights, const EngineOptions& options);

  Result<RequestId> submit(Request request);
  void cancel(RequestId id);
  bool step();
  void run(const std::stop_token& stop);
  std::string describe() const;
  EngineStats stats() const;
  int64_t max_context() const { return memory_.max_context; }
  void check_integrity() const;

 private:
  using Clock = Sequence::Clock;
  using Owned = std::unique_ptr<Sequence>;

  void take_inbox();
  void drop_cancelled();
  Plan make_plan_with_prefixes();
  Plan plan_once();
  void carry_out(const Plan& plan);
  void preempt(size_t running_index);
  void add_to_batch(Sequence& s, const Slice& slice);
  void compute();
  void sample_and_deliver();
  void accept(Sequence& s, int32_t token);
  void finish(Sequence& s, Finish how, int32_t token = -1, std::string error = {});
  void release_pages(Sequence& s);
  void fail_everything(const std::string& why);

  const Config& config_;
  const EngineOptions options_;
  const MemoryPlan memory_;
  ThreadPool threads_;
  std::unique_ptr<StepRunner> runner_;
  const FormPolicy forms_;
  StepBatch batch_;
  std::vector<Draw> draws_;             // one a logit row,
  std::vector<Result<int32_t>> drawn_;  // and what came of it
  PageAllocator pages_;
  PrefixCache prefixes_;  // after pages_: gives its pages back first

  // Both in order of arrival, and everything running came before everything waiting.
  std::vector<Owned> running_;
  std::deque<Owned> waiting_;
  std::vector<Sequence*> sampled_;  // owners of the logit rows of this step
  EngineStats stats_;

  std::mutex inbox_mutex_;  // guards what follows
  std::condition_variable_any inbox_filled_;
  std::vector<Owned> inbox_;
  std::vector<RequestId> cancels_;
  RequestId last_id_ = 0;
};

Engine::Impl::Impl(const Config& config, const Weights& weights, const EngineOptions& options)
    : config_(config),
      options_(usable(options)),
      memory_(plan_engine(config, options)),
      threads_(options.threads),
      runner_(make_runner(config, weights, options, memory_, threads_)),
      forms_(form_policy(config, options.attention, options.numerics, options.batch_invariant)),
      batch_(options.max_step_tokens, step_sequences(options.max_seqs),
             static_cast<int>(pages_for(memory_.max_context))),
      pages_(memory_.pages),
      prefixes_(pages_, static_cast<size_t>(std::max(0, options.keep_prefixes))) {}

Result<RequestId> Engine::Impl::submit(Request request) {
  const int64_t n = static_cast<int64_t>(request.ids.size());
  if (n == 0) return Failure{400, "the prompt is empty"};
  if (n >= max_context())
    return Failure{400, fmt::format("the prompt has {} tokens: with a context of {} it may have "
                                    "at most {}",
                                    n, max_context(), max_context() - 1)};
  for (int64_t i = 0; i < n; ++i)
    if (request.ids[i] < 0 || request.ids[i] >= config_.vocab)
      return Failure{400, fmt::format("token {} of the prompt is id {}: the vocabulary has ids 0 "
                                      "to {}",
                                      i, request.ids[i], config_.vocab - 1)};
  if (request.max_new_tokens < 1)
    return Failure{
        400, fmt::format("max_new_tokens is {}: at least 1 is accepted", request.max_new_tokens)};
  if (Result<SamplingParams> p = checked(request.sampling); !p.ok()) return p.failure();

  auto s = std::make_unique<Sequence>();
  s->ids = request.ids;
  s->ids.reserve(static_cast<size_t>(std::min(max_context(), n + request.max_new_tokens)));
  s->prompt = n;
  s->request = std::move(request);
  s->stats.prompt_tokens = n;
  s->submitted = Clock::now();
  std::lock_guard lock(inbox_mutex_);
  RequestId id = s->id = ++last_id_;
  inbox_.push_back(std::move(s));
  inbox_filled_.notify_one();
  return id;
}

void Engine::Impl::cancel(RequestId id) {
  std::lock_guard lock(inbox_mutex_);
  cancels_.push_back(id);
  inbox_filled_.notify_one();
}

void Engine::Impl::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    if (step()) continue;
    std::unique_lock lock(inbox_mutex_);
    inbox_filled_.wait(lock, stop, [&] { return !inbox_.empty() || !cancels_.empty(); });
  }
}

bool Engine::Impl::step() {
  take_inbox();
  drop_cancelled();
  if (running_.empty() && waiting_.empty()) return false;
  Plan plan = make_plan_with_prefixes();
  try {
    carry_out(plan);
    compute();
  } catch (const std::exception& e) {
    // The device or the machine failed under us: no request can go on, and whoever steps must know.
    fail_everything(e.what());
    throw;
  }
  sample_and_deliver();
  ++stats_.steps;
  return true;
}

void Engine::Impl::take_inbox() {
  std::lock_guard lock(inbox_mutex_);
  for (Owned& s : inbox_) waiting_.push_back(std::move(s));
  inbox_.clear();
  for (RequestId id : cancels_) {
    for (Owned& s : running_) s->cancelled |= s->id == id;
    for (Owned& s : waiting_) s->cancelled |= s->id == id;
  }
  cancels_.clear();
}

void Engine::Impl::drop_cancelled() {
  auto drop = [&](auto& list) {
    for (Owned& s : list)
      if (s->cancelled) finish(*s, Finish::cancelled);
    std::erase_if(list, [](const Owned& s) { return s->ended; });
  };
  drop(running_);
  drop(waiting_);
}

// Kept prefixes are worth less than anything that runs or could: they go before a plan suffers.
Plan Engine::Impl::make_plan_with_prefixes() {
  Plan plan = plan_once();
  while (plan.starved && prefixes_.evict_one()) plan = plan_once();
  return plan;
}

Plan Engine::Impl::plan_once() {
  auto state = [&](const Sequence& s) {
    int64_t own = 0;
    for (int32_t page : s.pages) own += pages_.holders(page) == 1;
    return SeqState{s.known(), s.cached, static_cast<int64_t>(s.pages.size()), own};
  };
  std::vector<SeqState> running, waiting;
  for (const Owned& s : running_) running.push_back(state(*s));
  // Those that may come in with this plan look for their beginning in the cache. Those that do not
  // come in let go of it again: a waiting sequence must not hold pages the oldest may need.
  const size_t places = static_cast<size_t>(options_.max_seqs) - running_.size();
  for (size_t i = 0; i < waiting_.size() && i < places; ++i) {
    Sequence& s = *waiting_[i];
    if (s.pages.empty()) s.pages = prefixes_.match(s.ids);
    s.cached = static_cast<int64_t>(s.pages.size()) * kPageRows;
    waiting.push_back(state(s));
  }
  Limits limits{options_.max_step_tokens, options_.max_seqs, pages_.free_pages()};
  Plan plan = plan_step(running, waiting, limits);
  int admitted = static_cast<int>(running_.size());
  for (const Slice& slice : plan.slices) admitted = std::max(admitted, slice.seq + 1);
  for (size_t i = static_cast<size_t>(admitted) - running_.size(); i < waiting.size(); ++i)
    release_pages(*waiting_[i]);
  return plan;
}

void Engine::Impl::carry_out(const Plan& plan) {
  batch_.clear();
  sampled_.clear();
  const size_t before = running_.size();
  for (const Slice& slice : plan.slices)
    if (static_cast<size_t>(slice.seq) >= before) {
      Sequence& s = *waiting_.front();
      s.stats.reused_tokens = s.cached;
      stats_.reused_tokens += s.cached;
      running_.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
  // Pages first come back, then go out.
  for (int victim : plan.preempted) release_pages(*running_[static_cast<size_t>(victim)]);
  for (const Slice& slice : plan.slices)
    add_to_batch(*running_[static_cast<size_t>(slice.seq)], slice);
  for (int victim : plan.preempted) preempt(static_cast<size_t>(victim));
}

// Victims come youngest first, so each goes in front of the one before: order of arrival holds.
void Engine::Impl::preempt(size_t running_index) {
  Owned s = std::move(running_[running_index]);
  running_.erase(running_.begin() + static_cast<int64_t>(running_index));
  ++s->stats.preemptions;
  ++stats_.preemptions;
  waiting_.push_front(std::move(s));
}

void Engine::Impl::add_to_batch(Sequence& s, const Slice& slice) {
  while (static_cast<int64_t>(s.pages.size()) < pages_for(slice.end))
    s.pages.push_back(pages_.take());
  // A generated token is decoded even when it is computed again after a preemption: its cache rows
  // then have the bits they had before.
  const int64_t middle = std::clamp(s.prompt, slice.begin, slice.end);
  auto add = [&](int64_t begin, int64_t end, bool decode) {
    if (begin == end) return;
    std::span<const int32_t> ids(s.ids);
    batch_.add(ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), begin,
               s.pages, decode, forms_);
  };
  add(slice.begin, middle, false);
  add(middle, slice.end, true);
  s.cached = slice.end;
  if (s.cached == s.known()) {
    batch_.want_logits(batch_.tokens() - 1);
    sampled_.push_back(&s);
  }
}

void Engine::Impl::compute() {
  const auto begin = Clock::now();
  const int tokens = batch_.tokens();
  draws_.clear();
  for (const Sequence* s : sampled_) draws_.push_back({s->request.sampling, s->known()});
  runner_->run(batch_, draws_, drawn_);
  int64_t decodes = 0;
  for (const Sequence* s : sampled_) decodes += s->generated() > 0;
  const int64_t prompts = tokens - decodes;
  const double share = tokens > 0 ? 1.0 / tokens : 0;
  const double seconds = seconds_between(begin, Clock::now());
  stats_.prompt_tokens += prompts;
  stats_.generated_tokens += decodes;
  stats_.prompt_seconds += seconds * static_cast<double>(prompts) * share;
  stats_.generation_seconds += seconds * static_cast<double>(decodes) * share;
}

void Engine::Impl::sample_and_deliver() {
  for (size_t row = 0; row < sampled_.size(); ++row) {
    Sequence& s = *sampled_[row];
    const Result<int32_t>& token = drawn_[row];
    if (token.ok())
      accept(s, token.value());
    else
      finish(s, Finish::error, -1, token.failure().message);
  }
  std::erase_if(running_, [](const Owned& s) { return s->ended; });
}

void Engine::Impl::accept(Sequence& s, int32_t token) {
  const auto now = Clock::now();
  if (s.generated() == 0) {
    s.first_token = now;
    s.stats.first_token_seconds = seconds_between(s.submitted, now);
    prefixes_.insert(s.ids, s.pages);  // just the prompt, all of it computed
  }
  s.ids.push_back(token);
  s.stats.generated_tokens = s.generated();
  s.stats.decode_seconds = seconds_between(s.first_token, now);
  const std::vector<int32_t>& stops = s.request.stop_ids;
  if (std::find(stops.begin(), stops.end(), token) != stops.end())
    return finish(s, Finish::stop, token);
  if (s.generated() >= s.request.max_new_tokens || s.known() >= max_context())
    return finish(s, Finish::length, token);
  if (s.request.sink) s.request.sink({s.id, token, Finish::none, {}, &s.stats});
}

// Announces the end and gives back the pages; the caller takes the sequence off its list.
void Engine::Impl::finish(Sequence& s, Finish how, int32_t token, std::string error) {
  // Under one form of attention, rows of generated tokens are as good as a prompt's.
  if (forms_.batch_invariant && how != Finish::error)
    prefixes_.insert(std::span(s.ids).first(static_cast<size_t>(s.cached)), s.pages);
  release_pages(s);
  s.ended = true;
  if (s.request.sink) s.request.sink({s.id, token, how, std::move(error), &s.stats});
}

void Engine::Impl::release_pages(Sequence& s) {
  for (int32_t page : s.pages) pages_.release(page);
  s.pages.clear();
  s.cached = 0;
}

void Engine::Impl::fail_everything(const std::string& why) {
  for (Owned& s : running_) finish(*s, Finish::error, -1, why);
  for (Owned& s : waiting_) finish(*s, Finish::error, -1, why);
  running_.clear();
  waiting_.clear();
}

std::string Engine::Impl::describe() const {
  return fmt::format(
      "{}; {} numerics, {} cache, {} attention{}; context {} tokens, {} at once in {} "
      "of cache",
      runner_->describe(), name_of(options_.numerics),
      name_of(options_.kv.value_or(default_kv_format(options_.numerics))),
      name_of(config_.has_indexer() ? options_.attention : AttentionMode::dense),
      options_.batch_invariant ? " (batch-invariant)" : "", max_context(), options_.max_seqs,
      bytes_text(runner_->cache_bytes()));
}

EngineStats Engine::Impl::stats() const {
  EngineStats s = stats_;
  s.pages = pages_.size();
  s.free_pages = pages_.free_pages();
  s.running = static_cast<int>(running_.size());
  s.waiting = static_cast<int>(waiting_.size());
  return s;
}

void Engine::Impl::check_integrity() const {
  pages_.check_integrity();
  for (const Owned& s : waiting_)
    FATHOM_CHECK(s->pages.empty(), "waiting request {} holds {} pages", s->id, s->pages.size());
  if (running_.empty() && prefixes_.size() == 0)
    FATHOM_CHECK(pages_.used_pages() == 0, "{} pages held by nobody", pages_.used_pages());
}

Engine::Engine(const Config& config, const Weights& weights, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(config, weights, options)) {}
Engine::~Engine() = default;
Result<RequestId> Engine::submit(Request request) { return impl_->submit(std::move(request)); }
void Engine::cancel(RequestId id) { impl_->cancel(id); }
bool Engine::step() { return impl_->step(); }
void Engine::run(const std::stop_token& stop) { impl_->run(stop); }
std::string Engine::describe() const { return impl_->describe(); }
EngineStats Engine::stats() const { return impl_->stats(); }
int64_t Engine::max_context() const { return impl_->max_context(); }
void Engine::check_integrity() const { impl_->check_integrity(); }

}  // namespace fathom
