#include "runtime/scheduler.h"

#include <algorithm>

#include "cache/kv_pool.h"

namespace fathom {
namespace {

// The state of planning one step: what each sequence gets, and what is left. Sequences are numbered
// through running and then waiting, as in Slice.
class Planner {
 public:
  Planner(std::span<const SeqState> running, std::span<const SeqState> waiting,
          const Limits& limits)
      : running_(running),
        waiting_(waiting),
        take_(running.size() + waiting.size(), 0),
        gone_(running.size(), false),
        step_tokens_(limits.step_tokens),
        budget_(limits.step_tokens),
        free_(limits.free_pages),
        places_(limits.sequences - static_cast<int>(running.size())),
        rows_(limits.prompt_rows) {}

  Plan run() {
    for (int i = 0; i < count(); ++i)
      if (is_decode(i)) give(i, 1);
    give_prompts();
    int admitted = 0;
    if (plan_.preempted.empty())
      admitted = admit();  // a sequence just preempted must not be admitted again
    give_drafts(admitted);
    add_slices(true);
    add_slices(false);
    return std::move(plan_);
  }

 private:
  int count() const { return static_cast<int>(running_.size()); }
  const SeqState& at(int i) const {
    return i < count() ? running_[static_cast<size_t>(i)]
                       : waiting_[static_cast<size_t>(i - count())];
  }
  int64_t& take(int i) { return take_[static_cast<size_t>(i)]; }
  bool is_gone(int i) const { return i < count() && gone_[static_cast<size_t>(i)]; }
  static int64_t missing(const SeqState& s) { return s.known - s.cached; }
  bool is_decode(int i) const { return i < count() && missing(at(i)) == 1; }
  bool is_prompt(int i) const { return !is_gone(i) && !is_decode(i) && missing(at(i)) > 0; }
  static int64_t more_pages(const SeqState& s, int64_t tokens) {
    return std::max<int64_t>(0, pages_for(s.cached + tokens) - s.pages);
  }

  // Up to `tokens` tokens for running sequence i, as many as budget and pages allow.
  void give(int i, int64_t tokens) {
    if (is_gone(i)) return;
    const SeqState& s = at(i);
    tokens = std::min(budget_, tokens);
    if (tokens <= 0) return;
    while (more_pages(s, tokens) > free_) {
      int64_t room = (s.pages + free_) * kPageRows - s.cached;
      if (room > 0) {
        tokens = room;  // a shorter chunk fits without preempting
        break;
      }
      int victim = last_rank();
      // All others are preempted and pages are still missing: sequences that have ended, but are
      // still in flight, hold them. A later plan finds them free.
      if (victim == 0) return;
      preempt(victim);
      if (victim == i) return;
    }
    take(i) = tokens;
    free_ -= more_pages(s, tokens);
    budget_ -= tokens;
  }

  // The running sequence that is preempted first; 0, which is never preempted, if it is the only
  // one.
  int last_rank() const {
    for (int i = count() - 1; i > 0; --i)
      if (!is_gone(i)) return i;
    return 0;
  }

  // Also takes back what this plan has given it: it may be a decode, which was served already.
  void preempt(int i) {
    free_ += at(i).pages - held_by_others(i) + more_pages(at(i), take(i));
    budget_ += take(i);
    take(i) = 0;
    gone_[static_cast<size_t>(i)] = true;
    plan_.preempted.push_back(i);
    ++places_;
  }

  // How many leading pages both have in common.
  static int64_t common(const SeqState& a, const SeqState& b) {
    size_t same = 0, end = std::min(a.page_ids.size(), b.page_ids.size());
    while (same < end) {
      const size_t middle = (same + end) / 2;
      if (a.page_ids[middle] == b.page_ids[middle])
        same = middle + 1;
      else
        end = middle;
    }
    return static_cast<int64_t>(same);
  }
  // How many pages of `i` are also held by a running sequence that is not preempted. As texts share
  // pages from the front, it is the largest number that `i` has in common with any one of them.
  int64_t held_by_others(int i) const {
    int64_t most = 0;
    for (int j = 0; j < count(); ++j)
      if (j != i && !is_gone(j)) most = std::max(most, common(at(i), at(j)));
    return most;
  }

  std::vector<int> prompts(int admitted) const {
    std::vector<int> list;
    for (int i = 0; i < count() + admitted; ++i)
      if (is_prompt(i) || i >= count()) list.push_back(i);
    return list;
  }

  void give_prompts() {
    const std::vector<int> list = prompts(0);
    const std::vector<int64_t> shares = shared(list, budget_);
    for (size_t k = 0; k < list.size(); ++k) give(list[k], shares[k]);
  }

  // Tokens of each prompt when `budget` is shared among them: in turns, each up to the end of its
  // page. If there is less than a page for each, all get the same number in the first turn.
  std::vector<int64_t> shared(const std::vector<int>& list, int64_t budget) const {
    std::vector<int64_t> share(list.size(), 0);
    int watched = 0;
    for (int i : list) watched += at(i).prompt_rows;
    auto wanted = [&](size_t k) {
      const SeqState& s = at(list[k]);
      const int64_t rowless = std::max<int64_t>(0, s.rows_from - s.cached);
      const int64_t most = s.prompt_rows ? rowless + 1 + rows_ / watched : INT64_MAX;
      return std::min(missing(s), most) - share[k];
    };
    int64_t most = list.empty() ? 0 : budget / static_cast<int64_t>(list.size());
    for (bool first = true, more = true; more; first = false) {
      more = false;
      for (size_t k = 0; k < list.size(); ++k) {
        const int64_t page = kPageRows - (at(list[k]).cached + share[k]) % kPageRows;
        int64_t tokens = std::min({budget, wanted(k), page});
        if (first) tokens = std::min(tokens, std::max<int64_t>(1, most));
        share[k] += tokens;
        budget -= tokens;
        more |= wanted(k) > 0 && budget > 0;
      }
    }
    return share;
  }

  // Pages that would be left after computing every known token of the running sequences.
  int64_t unclaimed() const {
    int64_t pages = free_;
    for (int i = 0; i < count(); ++i)
      if (!is_gone(i))
        pages -=
            more_pages(at(i), missing(at(i))) - more_pages(at(i), take_[static_cast<size_t>(i)]);
    return pages;
  }

  // Returns how many.
  int admit() {
    int admitted = 0;
    while (admitted < static_cast<int>(waiting_.size())) {
      if (!make_room(admitted)) break;  // none overtakes it: a long prompt must get its turn
      --places_;
      ++admitted;
    }
    if (admitted == 0) return 0;
    // There are pages for all of them now: the tokens given to prompts are shared out anew.
    const std::vector<int> list = prompts(admitted);
    int64_t budget = budget_;
    for (int i : list) budget += take(i);
    const std::vector<int64_t> shares = shared(list, budget);
    for (size_t k = 0; k < list.size(); ++k) take(list[k]) = shares[k];
    return admitted;
  }

  // Decodes take their drafts along, in order of rank, as far as tokens and pages are left over.
  void give_drafts(int admitted) {
    if (std::none_of(running_.begin(), running_.end(), [](const auto& s) { return s.drafts > 0; }))
      return;
    int64_t budget = step_tokens_;
    for (int64_t tokens : take_) budget -= tokens;
    int64_t pages = unclaimed() - needed(admitted, !plan_.preempted.empty());
    for (int i = 0; i < count() && budget > 0; ++i) {
      const SeqState& s = at(i);
      if (!is_decode(i) || take(i) == 0 || s.drafts == 0) continue;
      const int64_t held = s.pages + more_pages(s, 1);
      const int64_t room = (held + std::max<int64_t>(0, pages)) * kPageRows - s.cached - 1;
      const int64_t drafts = std::min({int64_t{s.drafts}, budget, room});
      pages -= more_pages(s, 1 + drafts) - more_pages(s, 1);
      budget -= drafts;
      take(i) += drafts;
    }
  }

  // Pages that the first `n` waiting sequences need. Pages shared with a running sequence that is
  // not preempted cost nothing.
  int64_t needed(int n, bool some_are_out) const {
    int64_t pages = 0;
    for (int i = count(); i < count() + n; ++i)
      pages += pages_for(at(i).known) -
               (some_are_out ? std::min(at(i).pages, held_by_others(i)) : at(i).pages);
    return pages;
  }

  // Whether the next waiting sequence can be admitted after those admitted so far. It preempts
  // running ones of worse priority, but only if that makes enough room.
  bool make_room(int admitted) {
    const SeqState& s = at(count() + admitted);
    const std::vector<int> sharing = prompts(admitted);
    int64_t tokens = budget_ - static_cast<int64_t>(sharing.size());  // one for each
    for (int i : sharing) tokens += take(i);
    int places = places_;
    int64_t room = unclaimed();
    std::vector<int> out;
    auto enough = [&] {
      return places > 0 && tokens > 0 &&
             needed(admitted + 1, !out.empty() || !plan_.preempted.empty()) <= room;
    };
    for (int i = count() - 1; i >= 0 && !enough() && at(i).priority > s.priority; --i) {
      if (is_gone(i)) continue;
      out.push_back(i);
      ++places;
      tokens += is_prompt(i) ? 1 : take(i);
      room += at(i).pages - held_by_others(i) + more_pages(at(i), missing(at(i)));
      gone_[static_cast<size_t>(i)] = true;  // on trial
    }
    const bool fits = enough();
    for (int i : out) gone_[static_cast<size_t>(i)] = false;
    if (!fits) return false;
    for (int i : out) preempt(i);
    return true;
  }

  void add_slices(bool decodes) {
    for (int i = 0; i < static_cast<int>(take_.size()); ++i)
      if (take(i) > 0 && is_decode(i) == decodes)
        plan_.slices.push_back({i, at(i).cached, at(i).cached + take(i)});
  }

  std::span<const SeqState> running_, waiting_;
  std::vector<int64_t> take_;
  std::vector<bool> gone_;
  const int64_t step_tokens_;
  int64_t budget_, free_;
  int places_, rows_;
  Plan plan_;
};

}  // namespace

Plan plan_step(std::span<const SeqState> running, std::span<const SeqState> waiting,
               const Limits& limits) {
  return Planner(running, waiting, limits).run();
}

}  // namespace fathom
