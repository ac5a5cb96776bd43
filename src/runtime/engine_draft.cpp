// Speculation in the engine. After a step's tokens are delivered, the MTP block runs over the same
// tokens. So every position with cache rows of the model also has rows of the block. The block then
// makes drafts, of the next tokens. The next step verifies them: it computes them after the last
// known token, and a draft is accepted if it is the token that is drawn from the logits before it.
// Tokens are drawn as without speculation, so the answer is the same.
//
// Where drafting is not worth it, it ends: sequences get no drafts any more, nor rows of the block,
// and steps overlap as without speculation. To begin again, a sequence computes the tokens without
// such rows once more, as after a preemption.
#include <algorithm>

#include "base/check.h"
#include "cache/kv_pool.h"
#include "runtime/engine_impl.h"

namespace fathom {

void Engine::Impl::draft(Flight& flight) {
  draft_runs_.clear();
  choose_drafts(flight);
  for (const Member& m : flight.members) {
    if (!wants_block(*m.sequence, m.begin)) continue;
    // The block joins a token's state with the token that follows it, which the text must know.
    const int64_t end = std::min(m.end, m.sequence->known() - 1);
    if (end > m.begin && wants_block_rows(m, end)) add_draft_runs(m, end);
  }
  if (draft_runs_.empty()) return;
  const auto begin = Clock::now();
  runner_->draft(draft_runs_);
  if (runner_->took_usual_time()) observe_drafting(flight, seconds_between(begin, Clock::now()));
  for (const Member& m : flight.members)
    if (!m.sequence->ended) settle_drafts(*m.sequence);
}

// How many drafts are worth making for each sequence of which a token was drawn: no more than the
// answer may still have beside the token that is drawn in any case.
void Engine::Impl::choose_drafts(const Flight& flight) {
  candidates_.clear();
  for (const Member& m : flight.members) {
    Sequence& s = *m.sequence;
    if (!m.drew || s.ended) continue;
    const int64_t most = std::min<int64_t>({options_.compute.speculative_tokens,
                                            s.request.max_new_tokens - s.generated() - 1,
                                            context() - s.known() - 1});
    s.wanted_drafts = s.without_drafts ? 0 : static_cast<int>(std::max<int64_t>(0, most));
    candidates_.push_back({&s.acceptance, s.wanted_drafts});
  }
  if (!options_.regulate_drafts) return;
  regulator_.choose(candidates_, overlaps() && !flight.logits);
  size_t i = 0;
  for (const Member& m : flight.members)
    if (m.drew && !m.sequence->ended) m.sequence->wanted_drafts = candidates_[i++].drafts;
  if (candidates_.empty() || regulator_.drafts(static_cast<int>(candidates_.size()))) return;
  for (const Owned& s : running_) give_up_drafts(*s);
}

void Engine::Impl::give_up_drafts(Sequence& s) {
  if (s.without_drafts) return;
  s.without_drafts = true;
  s.wanted_drafts = 0;
  s.drafts.clear();
  // Those of a long prompt follow the ones that are there.
  const bool goes_on = s.block_rows == s.cached && s.prompt - s.block_rows >= kLongPrompt;
  s.block_until = goes_on ? s.prompt : 0;
}

// No step is in flight. An answer is expected to become about twice as long as it is.
void Engine::Impl::resume_drafts() {
  for (const Owned& s : running_) {
    if (!s->without_drafts) continue;
    const int64_t expected = std::min(s->request.max_new_tokens - s->generated(),
                                      std::max<int64_t>(s->generated(), kPageRows));
    const int64_t rows = regulator_.worth_computing(static_cast<int>(running_.size()), expected);
    const auto first = static_cast<size_t>(s->block_rows / kPageRows);
    if (s->cached - s->block_rows > rows || computes_again(std::span(s->pages).subspan(first)))
      continue;
    s->without_drafts = false;
    s->again_until = std::max(s->again_until, s->cached);
    s->cached = s->block_rows;
  }
  regulator_.resumed();
}

// Whether a sequence computes rows of these pages again: another must not, since a step must not
// write a row twice. Reading them does no harm, as they are the same.
bool Engine::Impl::computes_again(std::span<const int32_t> pages) const {
  return std::any_of(running_.begin(), running_.end(), [&](const Owned& s) {
    if (s->cached >= s->again_until) return false;
    const auto first = static_cast<size_t>(s->cached / kPageRows);
    const auto end = static_cast<size_t>(pages_for(s->again_until));
    const std::span<const int32_t> own = std::span(s->pages).subspan(first, end - first);
    return std::find_first_of(own.begin(), own.end(), pages.begin(), pages.end()) != own.end();
  });
}

// A text that has ended needs them only if they complete a page that is kept.
bool Engine::Impl::wants_block_rows(const Member& m, int64_t end) const {
  const Sequence& s = *m.sequence;
  if (!s.ended) return true;
  const int64_t most = forms_.one_form ? end : std::min(end, s.prompt);
  return options_.keep_prefixes && m.drew && most / kPageRows > s.block_rows / kPageRows;
}

// Positions [member.begin, end). As in the step itself, generated tokens are decoded.
void Engine::Impl::add_draft_runs(const Member& m, int64_t end) {
  Sequence& s = *m.sequence;
  FATHOM_CHECK(s.block_rows == m.begin, "the MTP block has rows up to {} of {} computed ones",
               s.block_rows, m.begin);
  s.drafts.clear();
  const int drafts = m.drew && !s.ended ? drafts_for(s) : 0;
  const int64_t middle = std::clamp(s.prompt, m.begin, end);
  auto add = [&](int64_t from, int64_t to, bool decode) {
    if (from == to) return;
    DraftRun run;
    run.first = m.first + static_cast<int>(from - m.begin);
    run.position = from;
    run.next_ids =
        std::span(s.ids).subspan(static_cast<size_t>(from) + 1, static_cast<size_t>(to - from));
    run.pages = s.pages;
    run.decode = decode;
    run.wanted = to == end ? drafts : 0;
    run.params = s.request.sampling;
    run.drafts = &s.drafts;
    draft_runs_.push_back(run);
  };
  add(m.begin, middle, false);
  add(middle, end, true);
  s.block_rows = end;
}

// The second draft and later ones write rows of the block at positions that are still to be
// computed, for which the pages must be there: fewer are made if there are none.
int Engine::Impl::drafts_for(Sequence& s) {
  int drafts = s.wanted_drafts;
  while (pages_for(s.known() + drafts - 2) > static_cast<int64_t>(s.pages.size())) {
    if (pages_.free_pages() > 0)
      s.pages.push_back(pages_.take());
    else
      --drafts;
  }
  return drafts;
}

// Removes drafts that cannot become tokens: those after a stop token, and those that the answer's
// form forbids.
void Engine::Impl::settle_drafts(Sequence& s) {
  const std::vector<int32_t>& stops = s.request.stop_ids;
  const auto stop =
      std::find_first_of(s.drafts.begin(), s.drafts.end(), stops.begin(), stops.end());
  if (stop != s.drafts.end()) s.drafts.erase(stop + 1, s.drafts.end());
  s.forbidden_draft = 0;
  if (!s.request.constraint || s.drafts.empty()) return;
  const size_t possible = s.request.constraint->possible(s.drafts);
  if (possible >= s.drafts.size()) return;
  s.drafts.resize(possible);
  s.forbidden_draft = 1;
  if (s.drafts.empty()) count_acceptance(s, 1, 0);
}

// Counts the drafts of a verified run. A draft behind them that the answer's form forbids was made
// and not accepted, either.
void Engine::Impl::count_run(Sequence& s, int drafts, int accepted) {
  SpeculationStats& all = stats_.speculation;
  ++all.drafts;
  all.draft_tokens += drafts;
  all.accepted_tokens += accepted;
  for (int i = 0; i < accepted; ++i) ++all.accepted_at[static_cast<size_t>(i)];
  count_acceptance(s, drafts + s.forbidden_draft, accepted);
}

void Engine::Impl::count_acceptance(Sequence& s, int drafts, int accepted) {
  s.acceptance.add(drafts, accepted, stats_.steps - s.last_drafts);
  s.last_drafts = stats_.steps;
  regulator_.count(drafts, accepted);
}

// Only steps of decodes are measured: the time of others depends on their prompts. A step that is
// recorded takes fifty times as long as its replays: taken for what drafts cost, it would end them.
void Engine::Impl::observe_step(const Flight& flight, Clock::time_point over) {
  if (flight.decodes != flight.tokens || !flight.usual_time || flight.ahead) return;
  const int sequences = static_cast<int>(flight.members.size());
  regulator_.observe_step(sequences, flight.tokens, seconds_between(flight.started, over));
  if (flight.host_between) regulator_.observe_host(sequences, *flight.host_between);
}

void Engine::Impl::observe_plain(const Flight& flight, Clock::time_point over) {
  if (!speculates() || !options_.regulate_drafts || !finished_) return;
  if (flight.decodes != flight.tokens || flight.tokens == 0 || !flight.usual_time) return;
  regulator_.observe_plain(static_cast<int>(flight.members.size()),
                           options_.compute.speculative_tokens, flight.ahead,
                           seconds_between(*finished_, over));
}

void Engine::Impl::observe_drafting(const Flight& flight, double seconds) {
  if (flight.decodes != flight.tokens) return;
  int passes = 0, drafts = 0;
  for (const DraftRun& r : draft_runs_) {
    passes = std::max(passes, r.wanted);
    drafts += r.wanted;
  }
  regulator_.observe_drafting(static_cast<int>(draft_runs_.size()), passes, drafts, seconds);
}

}  // namespace fathom
