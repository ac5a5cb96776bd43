#include "runtime/engine.h"

#include <algorithm>

#include "base/error.h"
#include "base/units.h"
#include "cache/kv_pool.h"
#include "io/machine.h"
#include "kernels/gpu.h"
#include "runtime/cache_origin.h"
#include "runtime/engine_impl.h"
#include "runtime/ranked_runner.h"
#include "runtime/remote_runner.h"
#include "runtime/request_check.h"

namespace fathom {
namespace {

// `config`: the rank's, or the whole model's for all ranks.
RunnerSetup setup_of(const Config& config, const EngineOptions& o, int64_t context, int pages) {
  RunnerSetup s;
  s.config = &config;
  s.compute = o.compute;
  s.compute.context = context;
  s.compute.cache_pages = pages;
  s.compute.logit_rows = o.compute.sequences * (1 + o.compute.speculative_tokens) + prompt_rows(o);
  s.keep_selection = o.keep_selection;
  s.wrap = o.wrap;
  return s;
}

const EngineOptions& usable(const Config& config, const EngineOptions& o) {
  check_plan(config, o.compute);
  if (o.max_prompt_rows < 1)
    fail("{} rows a step for log-probabilities of prompts: at least 1 is needed",
         o.max_prompt_rows);
  if (o.max_waiting < 0)
    fail("a queue of {} requests: a count, or 0 for any number, is needed", o.max_waiting);
  if (!o.cache_dir.empty() && (!o.keep_prefixes || o.checkpoint == PageKey{}))
    fail("a cache folder needs kept prefixes and the checkpoint's digest: {} and {} are given",
         o.keep_prefixes ? "the first" : "not the first",
         o.checkpoint == PageKey{} ? "not the second" : "the second");
  if (o.keep_selection && (o.compute.attention == AttentionMode::dense || !config.has_indexer()))
    fail("selections are to be kept, but nothing selects: attention is {}, and the model has {}",
         name_of(o.compute.attention), config.has_indexer() ? "an indexer" : "no indexer");
  return o;
}

std::unique_ptr<StepRunner> make_runner(const Config& config, const RankWeights& weights,
                                        const EngineOptions& o, const MemoryPlan& plan,
                                        ThreadPool& pool) {
  RunnerSetup s = setup_of(config, o, plan.context, plan.pages);
  s.links.all = o.world.get();
  s.orders = o.orders;
  const RankLayout& layout = o.compute.layout;
  if (!layout.has_group(layout.group())) return std::make_unique<RemoteRunner>(s);
  if (o.compute.layout.ranks() > 1) return std::make_unique<RankedRunner>(s, weights);
  s.weights = &weights[0];
  return make_step_runner(s, pool);
}

}  // namespace

MemoryPlan plan_engine(const Config& config, const EngineOptions& o) {
  const ComputePlan& compute = o.compute;
  const bool gpu = compute.device == DeviceKind::cuda;
  MemoryNeeds needs;
  needs.weights = o.weight_bytes;
  // Workspace grows with the context. A context that is not settled yet is at most the model's own.
  // A CPU's ranks share its memory, and each keeps the whole cache; every GPU has its own.
  const Config rank_config = config_of_rank(config, compute.layout);
  const int in_memory = gpu ? 1 : compute.layout.ranks_here();
  needs.workspace =
      in_memory *
      runner_bytes(setup_of(rank_config, o,
                            compute.context > 0 ? compute.context : config.max_positions, 0));
  needs.cache_copies = in_memory;
  needs.cache = kv_shape(config, compute);
  needs.max_positions = config.max_positions;
  needs.context = compute.context;
  needs.sequences = compute.sequences;
  needs.cache_tokens = o.cache_tokens;
  if (gpu)
    needs.keep_free = 0.02;  // fragments and recorded graphs: no other program is expected there
  // A GPU's memory is used by this program alone; a host's is shared with other programs.
  needs.cache_share = gpu ? 1 : 0.5;
  needs.fill = gpu && o.keep_prefixes;
  if (!gpu && !o.cache_dir.empty()) needs.workspace += 2 * o.cache_dir_staging;
  // If available_bytes is given, this machine is not asked: the plan may be for another one.
  const int64_t available = o.available_bytes ? *o.available_bytes
                            : gpu             ? find_gpu(compute.layout.ranks_here()).free
                                              : available_memory();
  return plan_memory(needs, available);
}

Engine::Impl::Impl(const Config& config, const RankWeights& weights, const EngineOptions& options)
    : Impl(config, nullptr, plan_engine(config, usable(config, options)), options) {
  runner_ = make_runner(config, weights, options, memory_, threads_);
  open_cache_dir();
}

void Engine::Impl::open_cache_dir() {
  if (options_.cache_dir.empty()) return;
  PrefixStoreOptions o;
  o.dir = options_.cache_dir;
  o.max_bytes = options_.cache_dir_bytes;
  o.page_bytes = kv_shape(config_, options_.compute).bytes_per_page();
  o.on_problem = options_.on_cache_problem;
  o.staging_bytes = options_.cache_dir_staging;
  if (options_.compute.device == DeviceKind::cuda) o.staging = MemoryKind::pinned;
  prefixes_.use_disk(o, *runner_, options_.cache_dir_patience);
}

Engine::Impl::Impl(const Config& config, std::unique_ptr<StepRunner> runner, const MemoryPlan& plan,
                   const EngineOptions& options)
    : config_(config),
      options_(usable(config, options)),
      memory_(plan),
      threads_(options.compute.layout.data > 1 ? threads_of_rank(options.compute)
                                               : options.compute.threads),
      runner_(std::move(runner)),
      forms_(form_policy(config, options.compute)),
      batch_(options.compute.step_tokens, step_sequences(options.compute.sequences),
             static_cast<int>(pages_for(plan.context))),
      regulator_(options.compute.device == DeviceKind::cpu ? kCpuDraftCosts : kGpuDraftCosts),
      pages_(plan.pages),
      prefixes_(pages_, options.keep_prefixes,
                options.cache_dir.empty() ? PageKey{} : cache_origin(config, options)) {
  for (int t = 0; t < threads_.size(); ++t) samplers_.emplace_back(config.vocab);
  if (runner_) open_cache_dir();
  publish();
}

Result<RequestId> Engine::Impl::submit(Request request) {
  const RequestLimits limits{config_.vocab, context(), memory_.pages, options_.keep_selection};
  if (std::optional<Failure> wrong = check_request(request, limits)) return *wrong;

  const int64_t n = static_cast<int64_t>(request.ids.size());
  auto s = std::make_unique<Sequence>();
  s->ids.reserve(static_cast<size_t>(std::min(context(), n + request.max_new_tokens)));
  s->ids = request.ids;
  s->prompt = n;
  s->request = std::move(request);
  s->stats.prompt_tokens = n;
  s->submitted = Clock::now();
  if (s->has_penalties()) s->seen.add_prompt(s->ids);

  std::lock_guard lock(inbox_mutex_);
  if (published_.failed) return Failure{503, "the engine has failed and serves nothing any more"};
  // Requests for which there are places wait no longer than until the next plan.
  const int64_t places = std::max(0, options_.compute.sequences - published_.running);
  const int64_t queued = static_cast<int64_t>(inbox_.size()) + published_.waiting - places;
  if (options_.max_waiting > 0 && queued >= options_.max_waiting)
    return Failure{429, fmt::format("{} requests wait already: at most {} are accepted", queued,
                                    options_.max_waiting)};
  const RequestId id = s->id = options_.first_id + ++last_id_ * options_.id_step;
  inbox_.push_back(std::move(s));
  inbox_filled_.notify_one();
  return id;
}

void Engine::Impl::cancel(RequestId id) {
  std::lock_guard lock(inbox_mutex_);
  cancels_.push_back(id);
  inbox_filled_.notify_one();
}

EngineSnapshot Engine::Impl::snapshot() const {
  std::lock_guard lock(inbox_mutex_);
  EngineSnapshot s = published_;
  s.waiting += static_cast<int>(inbox_.size());
  return s;
}

void Engine::Impl::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    if (step()) continue;
    std::unique_lock lock(inbox_mutex_);
    inbox_filled_.wait(lock, stop, [&] { return !inbox_.empty() || !cancels_.empty(); });
  }
}

void Engine::Impl::take_inbox() {
  std::lock_guard lock(inbox_mutex_);
  for (Owned& s : inbox_) {
    auto behind =
        std::upper_bound(waiting_.begin(), waiting_.end(), s->rank(),
                         [](const auto& rank, const Owned& other) { return rank < other->rank(); });
    waiting_.insert(behind, std::move(s));
  }
  inbox_.clear();
  published_.waiting = static_cast<int>(waiting_.size());
  for (RequestId id : cancels_) {
    for (Owned& s : running_) s->cancelled |= s->id == id;
    for (Owned& s : waiting_) s->cancelled |= s->id == id;
  }
  cancels_.clear();
}

void Engine::Impl::publish() {
  std::lock_guard lock(inbox_mutex_);
  EngineSnapshot& p = published_;
  p.steps = stats_.steps;
  p.prompt_tokens = stats_.prompt_tokens;
  p.generated_tokens = stats_.generated_tokens;
  p.preemptions = stats_.preemptions;
  p.speculation = stats_.speculation;
  p.prefix_queries = prefix_queries_;
  p.prefix_hits = prefix_hits_;
  p.running = static_cast<int>(running_.size());
  p.waiting = static_cast<int>(waiting_.size());
  p.pages = pages_.size();
  p.free_pages = pages_.free_pages();
}

std::string Engine::Impl::describe() const {
  return fmt::format("{}; {} of cache", runner_->describe(), bytes_text(runner_->cache_bytes()));
}

EngineStats Engine::Impl::stats() const {
  EngineStats s = stats_;
  s.pages = pages_.size();
  s.free_pages = pages_.free_pages();
  s.pages_looked_up = prefixes_.pages_looked_up();
  s.running = static_cast<int>(running_.size());
  s.waiting = static_cast<int>(waiting_.size());
  return s;
}

void Engine::Impl::check_integrity() const {
  pages_.check_integrity();
  for (const Owned& s : waiting_)
    FATHOM_CHECK(s->pages.empty(), "waiting request {} holds {} pages", s->id, s->pages.size());
  if (running_.empty() && leaving_.empty())
    FATHOM_CHECK(pages_.used_pages() == 0, "{} pages held by nobody", pages_.used_pages());
}

Engine::Engine(const Config& config, const RankWeights& weights, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(config, weights, options)) {}
Engine::Engine(const Config& config, std::unique_ptr<StepRunner> runner, const MemoryPlan& plan,
               const EngineOptions& options)
    : impl_(std::make_unique<Impl>(config, std::move(runner), plan, options)) {}
Engine::~Engine() = default;
Result<RequestId> Engine::submit(Request request) { return impl_->submit(std::move(request)); }
void Engine::cancel(RequestId id) { impl_->cancel(id); }
EngineSnapshot Engine::snapshot() const { return impl_->snapshot(); }
bool Engine::step() { return impl_->step(); }
void Engine::take_part() { impl_->take_part(); }
void Engine::fail(const std::string& why) { impl_->fail_everything(why); }
void Engine::run(const std::stop_token& stop) { impl_->run(stop); }
std::string Engine::describe() const { return impl_->describe(); }
EngineStats Engine::stats() const { return impl_->stats(); }
int64_t Engine::context() const { return impl_->context(); }
PrefixStoreStats Engine::cache_dir_stats() const { return impl_->cache_dir_stats(); }
const MemoryPlan& Engine::memory() const { return impl_->memory(); }
void Engine::check_integrity() const { impl_->check_integrity(); }

}  // namespace fathom
