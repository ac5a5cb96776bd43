// Speculation in the engine. After a step's tokens are delivered, the MTP block runs over the same
// tokens. So every position with cache rows of the model also has rows of the block. The block then
// makes drafts, of the next tokens. The next step verifies them: it computes them after the last
// known token, and a draft is accepted if it is the token that is drawn from the logits before it.
// Tokens are drawn as without speculation, so the answer is the same.
//
// A sequence whose drafts have not been worth making for long gets none any more, nor rows of the
// block for what it generates: steps of such sequences alone overlap as without speculation.
#include <algorithm>

#include "base/check.h"
#include "cache/kv_pool.h"
#include "runtime/engine_impl.h"

namespace fathom {
namespace {

// A sequence without worthwhile drafts for so many steps gets none any more. The count of a new one
// begins with that of the others, but so many steps are left to it in any case.
constexpr int kStepsWithout = 256, kStepsOfNew = 32;

}  // namespace

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
  regulator_.choose(candidates_);
  size_t i = 0;
  for (const Member& m : flight.members) {
    if (!m.drew || m.sequence->ended) continue;
    m.sequence->wanted_drafts = candidates_[i++].drafts;
    end_drafts_unless_worth(*m.sequence);
  }
}

// Trials do not count: they are made although drafts are not worth it. Where generated pages are
// kept, which the block's rows belong to, drafts are never given up.
void Engine::Impl::end_drafts_unless_worth(Sequence& s) {
  if (s.without_drafts || (options_.keep_prefixes && forms_.one_form)) return;
  if (s.wanted_drafts == 0 || regulator_.trying())
    ++s.steps_without;
  else
    s.steps_without = 0;
  steps_without_ = std::min(s.steps_without, kStepsWithout - kStepsOfNew);
  if (s.steps_without < kStepsWithout) return;
  s.without_drafts = true;
  s.wanted_drafts = 0;
  s.drafts.clear();
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

// Only steps of decodes are measured: the time of others depends on their prompts. The host's part
// counts, too: it is the same for a step with many tokens as for one with few. A step that is
// recorded takes fifty times as long as its replays: taken for what drafts cost, it would end them.
void Engine::Impl::observe_step(const Flight& flight, Clock::time_point over) {
  if (flight.decodes != flight.tokens || flight.tokens == 0 || !flight.usual_time) return;
  regulator_.observe_step(static_cast<int>(flight.members.size()), flight.tokens,
                          flight.host_seconds + seconds_between(flight.launched, over));
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
