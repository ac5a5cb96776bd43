// Delivers the results of a step: tokens are added to their sequences, events go to the requests'
// sinks, and the pages of ended sequences are released.
#include <algorithm>

#include "cache/kv_pool.h"
#include "runtime/engine_impl.h"

namespace fathom {

void Engine::Impl::retire(Flight& flight) {
  finish_idle(0);
  runner_->finish(drawn_);
  const auto finished = Clock::now();
  read_logits(flight);
  auto over = Clock::now();
  for (size_t row = 0; row < flight.rows.size(); ++row) deliver(flight, row);
  host_since_ = finished;
  if (flight.block) {
    observe_step(flight, finished);
    const auto begin = Clock::now();
    draft(flight);
    over += Clock::now() - begin;
    *host_since_ += Clock::now() - begin;
  } else {
    observe_plain(flight, finished);
  }
  finished_ = finished;
  account(flight, over);
  keep_pages(flight);
  for (const Member& m : flight.members) --m.sequence->in_flight;
  prefixes_.store_some();
  sweep();
  ++stats_.steps;
  last_finish_ = over;
  if (!options_.on_step) return;
  StepReport report;
  report.tokens = flight.tokens;
  report.decodes = flight.decodes;
  report.sequences = static_cast<int>(flight.members.size());
  report.seconds = flight.seconds;
  report.host_seconds = flight.host_seconds + seconds_between(over, Clock::now());
  options_.on_step(report);
}

// Steps that overlap share the device, so a step's time counts from the end of the one before it.
void Engine::Impl::account(Flight& flight, Clock::time_point over) {
  flight.seconds = seconds_between(std::max(flight.launched, last_finish_), over);
  const int prompts = flight.tokens - flight.decodes;
  const double share = flight.tokens > 0 ? 1.0 / flight.tokens : 0;
  stats_.prompt_tokens += prompts;
  stats_.generated_tokens += flight.decodes - flight.rejected;
  stats_.prompt_seconds += flight.seconds * prompts * share;
  stats_.generation_seconds += flight.seconds * flight.decodes * share;
}

// Reads the rows with rules, constraints or log-probabilities, distributed over the threads. A
// constraint gets its token at once, so that its next mask is computed while other rows are drawn
// and the next step runs.
void Engine::Impl::read_logits(const Flight& flight) {
  if (!flight.logits) return;
  logprobs_.assign(flight.rows.size(), {});
  rows_to_read_.clear();
  for (size_t at = 0; at < flight.rows.size(); ++at) {
    const Row& row = flight.rows[at];
    Sequence& s = *row.sequence;
    if (row.draft >= 0 || s.ended || !reads_logits(s.request)) continue;
    if (!row.draws)
      s.prompt_logprobs.resize(static_cast<size_t>(s.prompt - s.request.prompt_logprobs_from));
    rows_to_read_.push_back(at);
  }
  auto read = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i)
      read_run(flight, rows_to_read_[static_cast<size_t>(i)],
               samplers_[static_cast<size_t>(thread)]);
  };
  threads_.parallel_dynamic(static_cast<int64_t>(rows_to_read_.size()), 1, read);
}

// A row, and those of its drafts for as long as each draft is what was drawn in front of it.
void Engine::Impl::read_run(const Flight& flight, size_t at, RuledSampler& sampler) {
  const int drafts = flight.rows[at].drafts;
  for (int i = 0;; ++i, ++at) {
    read_row(flight.rows[at], at, sampler);
    if (i == drafts || !drawn_[at].ok() || drawn_[at].value() != flight.rows[at + 1].draft) return;
  }
}

// Touches only what belongs to this row's request: other threads read other rows at the same time.
void Engine::Impl::read_row(const Row& row, size_t at, RuledSampler& sampler) {
  Sequence& s = *row.sequence;
  const std::span<const float> logits = runner_->logits(static_cast<int>(at));
  if (!row.draws) {
    const int64_t token = row.position + 1;
    s.prompt_logprobs[static_cast<size_t>(token - s.request.prompt_logprobs_from)] =
        logprobs_of(logits, s.ids[static_cast<size_t>(token)], s.request.logprobs);
    return;
  }
  if (draws_by_host(s.request)) drawn_[at] = draw_for(row, logits, sampler);
  if (drawn_[at].ok() && s.request.logprobs >= 0)
    logprobs_[at] = logprobs_of(logits, drawn_[at].value(), s.request.logprobs);
}

// A constraint that throws fails its own request, not the engine.
Result<int32_t> Engine::Impl::draw_for(const Row& row, std::span<const float> logits,
                                       RuledSampler& sampler) {
  Sequence& s = *row.sequence;
  const int64_t position = row.position + 1;
  try {
    Result<int32_t> token =
        sampler.draw(logits, {&s.request, &s.seen, position - s.prompt, position});
    if (!token.ok()) return token;
    if (s.has_penalties()) s.seen.add_answer(token.value());
    if (s.request.constraint) s.request.constraint->accept(token.value());
    return token;
  } catch (const std::exception& e) {
    return Failure{500, fmt::format("the form of the answer: {}", e.what())};
  }
}

// The token of row `at`; then those of its drafts, as long as each draft is the token in front of
// it. What was computed of the other drafts is overwritten by later steps.
void Engine::Impl::deliver(Flight& flight, size_t at) {
  const Row& row = flight.rows[at];
  Sequence& s = *row.sequence;
  // Ended: it ended in the step before, and this token is discarded.
  if (!row.draws || row.draft >= 0 || s.ended) return;
  --s.pending;
  s.stats.draft_tokens += row.drafts;
  int accepted = 0;
  for (;; ++accepted, ++at) {
    const Result<int32_t>& token = drawn_[at];
    if (!token.ok()) {
      prefixes_.discard(s.prefix, s.ids);
      finish(s, Finish::error, token.failure().message);
      return;
    }
    s.stats.accepted_tokens += accepted > 0;
    accept(s, token.value(), at, accepted > 0);
    if (accepted == row.drafts || s.ended || token.value() != flight.rows[at + 1].draft) break;
  }
  if (row.drafts > 0) count_run(s, row.drafts, accepted);
  const int rejected = row.drafts - accepted;
  flight.rejected += rejected;
  s.cached -= rejected;
  flight.members[row.member].drew = true;
}

// The computed pages of unfinished prompts are kept at once, not yet verified, so that others can
// share them. If their logits turn out to be broken, discard() drops them. The pages in front of a
// token that was drawn are verified.
void Engine::Impl::keep_pages(const Flight& flight) {
  for (const Member& m : flight.members) {
    Sequence& s = *m.sequence;
    if (m.drew || (!s.ended && m.end < s.known()))
      keep_prefix(s, std::min(m.end, s.known() - 1), m.drew);
  }
}

// Keeps the pages of positions below `computed`. Rows of generated tokens are kept only under one
// form of attention, where they are bit for bit those of a prompt. With speculation the MTP block's
// rows are part of the page, and a page is kept when it has them, unless drafting has ended.
void Engine::Impl::keep_prefix(Sequence& s, int64_t computed, bool verified) {
  int64_t most = forms_.one_form ? computed : std::min(computed, s.prompt), complete = most;
  if (speculates()) {
    complete = std::min(most, s.block_rows);
    if (!s.without_drafts) most = complete;
  }
  prefixes_.keep(s.prefix, std::span(s.ids).first(static_cast<size_t>(most)), s.pages, verified,
                 complete);
}

void Engine::Impl::accept(Sequence& s, int32_t token, size_t row, bool drafted) {
  const auto now = Clock::now();
  const bool first = s.generated() == 0;
  if (first) {
    s.first_token = now;
    s.stats.first_token_seconds = seconds_between(s.submitted, now);
  }
  s.ids.push_back(token);
  s.stats.generated_tokens = s.generated();
  s.stats.decode_seconds = seconds_between(s.first_token, now);

  TokenEvent event;
  event.id = s.id;
  event.token = token;
  event.drafted = drafted;
  const std::vector<int32_t>& stops = s.request.stop_ids;
  if (std::find(stops.begin(), stops.end(), token) != stops.end())
    event.finish = Finish::stop;
  else if (s.generated() >= s.request.max_new_tokens || s.known() >= context())
    event.finish = Finish::length;
  event.stats = &s.stats;
  if (s.request.logprobs >= 0) event.logprobs = &logprobs_[row];
  if (first) event.prompt_logprobs = s.prompt_logprobs;
  if (s.request.keep_selection) event.selection = &selection_of(s, row);
  if (event.finish != Finish::none) end(s);
  if (s.request.sink) s.request.sink(event);
}

// The selection of the token before the one just accepted.
const Selection& Engine::Impl::selection_of(const Sequence& s, size_t row) {
  selection_.position = s.known() - 2;
  selection_.layers.clear();
  for (int layer = 0; layer < config_.layers; ++layer)
    selection_.layers.push_back(runner_->picked(static_cast<int>(row), layer));
  return selection_;
}

// Ends a sequence without a token, and tells its sink.
void Engine::Impl::finish(Sequence& s, Finish how, std::string error) {
  end(s);
  TokenEvent event;
  event.id = s.id;
  event.finish = how;
  event.error = std::move(error);
  event.stats = &s.stats;
  if (s.request.sink) s.request.sink(event);
}

// Gives back the pages, unless a step in flight still uses them: sweep() does it then, which also
// removes the sequence from its list.
void Engine::Impl::end(Sequence& s) {
  if (s.in_flight == 0) release_pages(s);
  s.ended = true;
}

void Engine::Impl::drop_cancelled() {
  for (Owned& s : running_)
    if (s->cancelled) finish(*s, Finish::cancelled);
  for (Owned& s : waiting_)
    if (s->cancelled) finish(*s, Finish::cancelled);
  sweep();
}

void Engine::Impl::sweep() {
  auto sort_out = [&](auto& list) {
    for (Owned& s : list) {
      if (!s->ended) continue;
      if (s->in_flight > 0)
        leaving_.push_back(std::move(s));
      else
        release_pages(*s);
    }
    std::erase_if(list, [](const Owned& s) { return s == nullptr || s->ended; });
  };
  sort_out(running_);
  sort_out(waiting_);
  for (Owned& s : leaving_)
    if (s->in_flight == 0) release_pages(*s);
  std::erase_if(leaving_, [](const Owned& s) { return s->in_flight == 0; });
}

void Engine::Impl::release_pages(Sequence& s) {
  for (int32_t page : s.pages) pages_.release(page);
  s.pages.clear();
  s.cached = s.block_rows = s.again_until = 0;
  s.drafts.clear();
}

void Engine::Impl::fail_everything(const std::string& why) {
  {
    std::lock_guard lock(inbox_mutex_);
    published_.failed = true;  // from now on submit() refuses: no request is missed below
    for (Owned& s : inbox_) waiting_.push_back(std::move(s));
    inbox_.clear();
  }
  flight_.reset();
  prefixes_.store_no_more();
  auto give_up = [&](auto& list) {
    for (Owned& s : list) {
      s->in_flight = 0;
      if (!s->ended) finish(*s, Finish::error, why);
    }
  };
  give_up(running_);
  give_up(waiting_);
  give_up(leaving_);
  sweep();
  publish();
}

}  // namespace fathom
