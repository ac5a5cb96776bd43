// Plans the next step of the engine and launches it.
#include <algorithm>
#include <utility>

#include "cache/kv_pool.h"
#include "runtime/engine_impl.h"

namespace fathom {
namespace {

template <class List>
void insert_by_rank(List& list, std::unique_ptr<Sequence> s) {
  auto behind = std::upper_bound(list.begin(), list.end(), s->rank(),
                                 [](const auto& rank, const std::unique_ptr<Sequence>& other) {
                                   return rank < other->rank();
                                 });
  list.insert(behind, std::move(s));
}

}  // namespace

bool Engine::Impl::step() {
  try {
    return advance();
  } catch (const std::exception& e) {
    // The device or the machine has failed: no request can go on, and the caller must know.
    fail_everything(e.what());
    throw;
  }
}

// On a GPU the next step is launched before the one in flight is waited for, so that planning and
// delivery take none of the device's time.
bool Engine::Impl::advance() {
  take_inbox();
  drop_cancelled();
  if (!flight_ && running_.empty() && waiting_.empty()) {
    host_since_.reset();
    publish();
    return prefixes_.store_rest();
  }
  std::optional<Flight> next;
  if (flight_) {
    // A token that the host draws must be known before the step that reads it is launched, and
    // logits must be read before the next step overwrites them.
    if (!flight_->logits && !flight_->block && !regulator_.resumes()) next = launch_next(true);
    retire(*flight_);
    flight_.reset();
  }
  if (!next && regulator_.resumes()) resume_drafts();
  if (!next) next = launch_next(false);
  if (next && (!overlaps() || next->block)) {
    retire(*next);
    next.reset();
  }
  flight_ = std::move(next);
  publish();
  return true;
}

std::optional<Engine::Impl::Flight> Engine::Impl::launch_next(bool ahead) {
  const auto begin = Clock::now();
  if (running_.empty() && waiting_.empty()) return std::nullopt;
  prefixes_.take_loaded();
  const Plan plan = make_plan();
  // A sequence to be preempted may be ending in the step in flight. A plan that preempts therefore
  // waits until that step is finished.
  if (ahead && !plan.preempted.empty()) return std::nullopt;
  if (!ahead && plan.slices.empty() && awaits_disk_) {
    prefixes_.wait_for_disk();
    return std::nullopt;
  }
  FATHOM_CHECK(ahead || !plan.slices.empty() || !plan.preempted.empty(),
               "{} running and {} waiting requests, and no step to take", running_.size(),
               waiting_.size());
  Flight flight;
  carry_out(plan, flight);
  publish();  // metrics show the admitted requests before the step has run
  if (batch_.tokens() == 0) return std::nullopt;
  flight.launched = Clock::now();
  flight.host_seconds = seconds_between(begin, flight.launched);
  finish_idle(runner_->steps_at_once() - (flight_ ? 2 : 1));
  runner_->launch(batch_, draws_, carried_);
  flight.ahead = ahead;
  flight.usual_time = runner_->took_usual_time();
  // Where steps do not overlap, launch() may be the step itself.
  flight.started = overlaps() ? Clock::now() : flight.launched;
  if (!ahead && host_since_) flight.host_between = seconds_between(*host_since_, flight.started);
  launched_ = true;
  return flight;
}

// Where steps may overlap, the other groups' next one is not kept waiting until this is finished.
void Engine::Impl::take_part() {
  if (std::exchange(launched_, false)) return;
  const int most = runner_->steps_at_once();
  finish_idle(most - 1);
  batch_.clear();
  runner_->launch(batch_, {}, {});
  ++idle_;
  if (most == 1) finish_idle(0);
}

// Waits for steps without tokens, the oldest ones, until so many are in flight.
void Engine::Impl::finish_idle(int left) {
  for (; idle_ > left; --idle_) runner_->finish(drawn_);
}

// Idle kept pages count as free: they are evicted when pages are taken.
Plan Engine::Impl::make_plan() {
  awaits_disk_ = false;
  std::vector<SeqState> running, waiting;
  for (const Owned& s : running_) running.push_back(state_of(*s));
  bool again = false;  // a waiting sequence would compute rows that are there a second time
  std::vector<std::vector<int32_t>> paths;  // page lists that the waiting states point to
  // The most pages that waiting sequences could get: the free ones, and those held by sequences
  // that the first waiting one might preempt.
  int64_t room = pages_.free_pages();
  if (!waiting_.empty())
    for (const Owned& r : running_)
      if (r->request.priority > waiting_[0]->request.priority)
        room += static_cast<int64_t>(r->pages.size());
  // Waiting sequences that this plan might admit look up their prefix among the kept pages. They
  // hold no page until they are admitted, so an idle page that they find still counts as one that
  // they need. A place may be free or taken from a sequence of worse priority. The loop ends at the
  // first sequence for which there are no pages, as none overtakes it.
  for (size_t i = 0; i < waiting_.size() && room >= 0; ++i) {
    Sequence& s = *waiting_[i];
    const auto worse = std::count_if(running_.begin(), running_.end(), [&](const Owned& r) {
      return r->request.priority > s.request.priority;
    });
    if (running_.size() + i >= static_cast<size_t>(options_.compute.sequences + worse)) break;
    awaits_disk_ = prefixes_.awaits_disk(s.prefix, reusable(s));
    if (awaits_disk_) break;  // none overtakes it
    PrefixTree::Found found = prefixes_.find(s.prefix, reusable(s));
    SeqState state = state_of(s);
    s.reuse = reuse_of(s, found.path);
    // One in a plan at most: a step must not write a row twice.
    if (s.reuse.drafts && s.reuse.rows < found.pages * kPageRows && std::exchange(again, true))
      s.reuse = {found.pages * kPageRows, s.reuse.block_rows, false};
    state.cached = s.reuse.rows;
    state.pages = found.pages - found.idle;
    paths.push_back(std::move(found.path));
    state.page_ids = paths.back();
    waiting.push_back(state);
    room -= pages_for(state.known) - state.pages;
  }
  Limits limits;
  limits.step_tokens = options_.compute.step_tokens;
  limits.sequences = options_.compute.sequences;
  limits.free_pages = pages_.free_pages();
  limits.prompt_rows = prompt_rows(options_);
  return plan_step(running, waiting, limits);
}

SeqState Engine::Impl::state_of(const Sequence& s) const {
  SeqState x;
  // A sequence whose last token is being drawn has nothing left to compute.
  x.known = s.last_pending(context()) ? s.cached : s.known() + s.pending;
  x.cached = s.cached;
  x.pages = static_cast<int64_t>(s.pages.size());
  x.page_ids = s.pages;
  x.priority = s.request.priority;
  x.prompt_rows = s.wants_prompt_rows();
  x.rows_from = s.first_prompt_row();
  x.drafts = static_cast<int>(s.drafts.size());
  return x;
}

// The tokens whose rows may come from another request. The last one is excluded, as its logits are
// wanted. Generated ones are excluded unless decode computes the same bits as prefill. So are those
// from which on the logits of every token are wanted.
std::span<const int32_t> Engine::Impl::reusable(const Sequence& s) const {
  if (s.wants_prompt_rows())
    return std::span(s.ids).first(static_cast<size_t>(s.first_prompt_row()));
  const int64_t most = forms_.one_form ? s.known() : s.prompt;
  return std::span(s.ids).first(static_cast<size_t>(std::min(most, s.known() - 1)));
}

void Engine::Impl::carry_out(const Plan& plan, Flight& flight) {
  batch_.clear();
  draws_.clear();
  carried_.clear();
  std::vector<Sequence*> in_work;  // as the plan counts
  for (const Owned& s : running_) in_work.push_back(s.get());
  for (int i = 0; i < plan.admitted(running_.size()); ++i)
    in_work.push_back(waiting_[static_cast<size_t>(i)].get());
  admit_and_preempt(plan);
  for (const Slice& slice : plan.slices)
    add_to_batch(*in_work[static_cast<size_t>(slice.seq)], slice, flight);
  flight.tokens = batch_.tokens();
}

// Rows of the block may be missing in pages that were computed where drafting had ended. A sequence
// that is to have drafts computes such pages again, for others, too, unless they are longer than
// what it may generate and than the prompts for which drafting had ended.
Sequence::Reuse Engine::Impl::reuse_of(const Sequence& s, std::span<const int32_t> pages) const {
  Reuse r;
  r.rows = r.block_rows = static_cast<int64_t>(pages.size()) * kPageRows;
  if (!speculates()) return r;
  const int64_t complete = prefixes_.complete_pages(pages);
  r.block_rows = complete * kPageRows;
  r.drafts = !options_.regulate_drafts || regulator_.drafts(static_cast<int>(running_.size()) + 1);
  const int64_t lacking = r.rows - r.block_rows;
  if (!r.drafts || lacking == 0) return r;
  r.drafts = lacking <= std::max(kLongPrompt, s.request.max_new_tokens) &&
             !computes_again(pages.subspan(static_cast<size_t>(complete)));
  if (r.drafts) r.rows = r.block_rows;
  return r;
}

// In this order: preempted sequences release their pages, admitted ones hold the kept pages that
// they found, and only afterwards are new pages taken, which may evict kept ones.
void Engine::Impl::admit_and_preempt(const Plan& plan) {
  const int admitted = plan.admitted(running_.size());
  std::vector<Owned> out;
  FATHOM_CHECK(plan.preempted.empty() || leaving_.empty(),
               "{} to be preempted while {} that have ended hold pages", plan.preempted.size(),
               leaving_.size());
  for (int victim : plan.preempted) {
    Owned& s = running_[static_cast<size_t>(victim)];
    release_pages(*s);
    ++s->stats.preemptions;
    ++stats_.preemptions;
    out.push_back(std::move(s));
  }
  std::erase_if(running_, [](const Owned& s) { return s == nullptr; });
  for (int i = 0; i < admitted; ++i) {
    Owned s = std::move(waiting_.front());
    waiting_.pop_front();
    s->pages = prefixes_.hold(s->prefix, reusable(*s));
    s->cached = s->reuse.rows;
    s->block_rows = s->reuse.block_rows;
    s->again_until = static_cast<int64_t>(s->pages.size()) * kPageRows;
    s->without_drafts = false;
    if (speculates() && !s->reuse.drafts) give_up_drafts(*s);
    if (s->stats.preemptions == 0) {
      count_reuse(*s);
      s->acceptance = regulator_.start(static_cast<int>(running_.size()) + 1);
      s->last_drafts = stats_.steps;
    }
    insert_by_rank(running_, std::move(s));
  }
  for (Owned& s : out) insert_by_rank(waiting_, std::move(s));
}

// Counts reuse when a request is admitted for the first time. Pages that it finds again after a
// preemption are its own work, and may reach beyond its prompt.
void Engine::Impl::count_reuse(Sequence& s) {
  const int64_t reused = std::min(s.cached, s.prompt);
  s.stats.reused_tokens = reused;
  stats_.reused_tokens += reused;
  if (!options_.keep_prefixes) return;
  prefix_queries_ += s.wants_prompt_rows() ? s.first_prompt_row() : s.prompt;
  prefix_hits_ += reused;
}

void Engine::Impl::add_to_batch(Sequence& s, const Slice& slice, Flight& flight) {
  while (static_cast<int64_t>(s.pages.size()) < pages_for(slice.end))
    s.pages.push_back(pages_.take());
  flight.members.push_back({&s, slice.begin, slice.end, batch_.tokens()});
  flight.block |= speculates() && wants_block(s, slice.begin);
  ++s.in_flight;
  if (slice.begin == s.known()) {  // the token that the step in flight draws
    const int32_t unknown = 0;
    carried_.push_back({batch_.tokens(), s.pending_row});
    batch_.add({&unknown, 1}, slice.begin, s.pages, true, forms_);
    s.cached = slice.end;
    return add_rows(s, slice, flight);
  }
  // A generated token is decoded even when it is computed again after a preemption, so that its
  // cache rows have the same bits as before.
  const int64_t middle = std::clamp(s.prompt, slice.begin, slice.end);
  const int64_t known = s.known();
  if (slice.end > known)  // its first drafts, too
    s.ids.insert(s.ids.end(), s.drafts.begin(), s.drafts.begin() + (slice.end - known));
  auto add = [&](int64_t begin, int64_t end, bool decode) {
    if (begin == end) return;
    std::span<const int32_t> ids(s.ids);
    batch_.add(ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), begin,
               s.pages, decode, forms_);
  };
  add(slice.begin, middle, false);
  add(middle, slice.end, true);
  s.ids.resize(static_cast<size_t>(known));
  s.cached = slice.end;
  add_rows(s, slice, flight);
}

// Asks for those logits of the slice just added that are needed.
void Engine::Impl::add_rows(Sequence& s, const Slice& slice, Flight& flight) {
  const int first = batch_.tokens() - static_cast<int>(slice.end - slice.begin);
  auto want = [&](int64_t position, const Draw& draw, bool draws) {
    batch_.want_logits(first + static_cast<int>(position - slice.begin));
    flight.logits |= draw.logits;
    flight.rows.push_back({&s, position, draws, flight.members.size() - 1});
    draws_.push_back(draw);
  };
  if (s.wants_prompt_rows()) {
    Draw draw;
    draw.by_host = draw.logits = true;
    for (int64_t p = std::max(slice.begin, s.first_prompt_row());
         p < std::min(slice.end, s.prompt - 1); ++p)
      want(p, draw, false);
  }
  const int64_t known = s.known() + s.pending;
  if (s.cached < known) return;
  Draw draw;
  draw.params = s.request.sampling;
  draw.position = known;
  draw.by_host = draws_by_host(s.request);
  draw.logits = reads_logits(s.request);
  draw.keep_selection = s.request.keep_selection;
  const int drafts = static_cast<int>(slice.end - known);
  if (s.generated() + s.pending > 0) flight.decodes += 1 + drafts;
  want(known - 1, draw, true);
  s.pending_row = static_cast<int>(flight.rows.size()) - 1;
  flight.rows.back().drafts = drafts;
  for (int i = 0; i < drafts; ++i) {
    ++draw.position;
    draw.draft = s.drafts[static_cast<size_t>(i)];
    want(known + i, draw, true);
    flight.rows.back().draft = draw.draft;
  }
  ++s.pending;
}

}  // namespace fathom
