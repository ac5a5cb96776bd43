// Speculation in the engine. After a step's tokens are delivered, the MTP block runs over the same
// tokens. So every position with cache rows of the model also has rows of the block. The block then
// guesses the next tokens: the drafts. The next step verifies them: it computes them after the last
// known token, and a draft is accepted if it is the token that is drawn from the logits before it.
// Tokens are drawn as without speculation, so the answer is the same.
#include <algorithm>

#include "base/check.h"
#include "cache/kv_pool.h"
#include "runtime/engine_impl.h"

namespace fathom {

void Engine::Impl::draft(Flight& flight) {
  draft_runs_.clear();
  regulator_.begin(static_cast<int>(running_.size()));
  for (const Member& m : flight.members) {
    // The block joins a token's state with the token that follows it, which the text must know.
    const int64_t end = std::min(m.end, m.sequence->known() - 1);
    if (end > m.begin && wants_block_rows(m, end)) add_draft_runs(m, end);
  }
  if (draft_runs_.empty()) return;
  runner_->draft(draft_runs_);
  for (const Member& m : flight.members)
    if (!m.sequence->ended) settle_drafts(*m.sequence);
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
    run.drafts = to == end ? drafts : 0;
    run.params = s.request.sampling;
    run.guessed = &s.drafts;
    draft_runs_.push_back(run);
  };
  add(m.begin, middle, false);
  add(middle, end, true);
  s.block_rows = end;
}

// How many tokens are worth guessing: no more than the answer may still have beside the token that
// is drawn in any case. The second guess and later ones write rows of the block at positions that
// are still to be computed, for which the pages must be there.
int Engine::Impl::drafts_for(Sequence& s) {
  int most = options_.compute.speculative_tokens;
  if (options_.regulate_drafts) most = regulator_.drafts(most, s.acceptance.value());
  int64_t drafts = std::min<int64_t>(
      {most, s.request.max_new_tokens - s.generated() - 1, context() - s.known() - 1});
  while (pages_for(s.known() + drafts - 2) > static_cast<int64_t>(s.pages.size())) {
    if (pages_.free_pages() > 0)
      s.pages.push_back(pages_.take());
    else
      --drafts;
  }
  return static_cast<int>(std::max<int64_t>(0, drafts));
}

// Removes drafts that cannot become tokens: those after a stop token, and those that the answer's
// form forbids.
void Engine::Impl::settle_drafts(Sequence& s) {
  const std::vector<int32_t>& stops = s.request.stop_ids;
  const auto stop =
      std::find_first_of(s.drafts.begin(), s.drafts.end(), stops.begin(), stops.end());
  if (stop != s.drafts.end()) s.drafts.erase(stop + 1, s.drafts.end());
  if (s.request.constraint && !s.drafts.empty())
    s.drafts.resize(std::min(s.drafts.size(), s.request.constraint->possible(s.drafts)));
}

// Counts the drafts of a verified run. Drafts after the first rejected one tell nothing about
// acceptance, so they are not counted as rejected.
void Engine::Impl::count_run(Sequence& s, int drafts, int accepted) {
  SpeculationStats& all = stats_.speculation;
  ++all.drafts;
  all.draft_tokens += drafts;
  all.accepted_tokens += accepted;
  for (int i = 0; i < accepted; ++i) {
    ++all.accepted_at[static_cast<size_t>(i)];
    s.acceptance.add(true);
  }
  if (accepted < drafts) s.acceptance.add(false);
}

// Only steps of decodes are measured: the time of others depends on their prompts.
void Engine::Impl::observe_drafts(const Flight& flight) {
  if (!speculates() || flight.decodes != flight.tokens || flight.tokens == 0) return;
  const int sequences = static_cast<int>(flight.members.size());
  regulator_.observe(sequences, flight.tokens - sequences, flight.seconds);
}

}  // namespace fathom
