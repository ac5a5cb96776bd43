#include "runtime/scheduler.h"

#include <algorithm>

#include "base/check.h"
#include "runtime/kv_pool.h"

namespace fathom {
namespace {

// The state of one planning: what each sequence gets, and what is left.
class Planner {
 public:
  Planner(std::span<const SeqState> running, std::span<const SeqState> waiting,
          const Limits& limits)
      : running_(running),
        waiting_(waiting),
        take_(running.size(), 0),
        gone_(running.size(), false),
        budget_(limits.step_tokens),
        free_(limits.free_pages),
        places_(limits.max_running - static_cast<int>(running.size())),
        rows_(limits.prompt_rows) {}

  Plan run() {
    for (int i = 0; i < count(); ++i)
      if (is_decode(i)) give(i);
    for (int i = 0; i < count(); ++i)
      if (!is_decode(i)) give(i);
    add_slices(true);
    add_slices(false);
    if (plan_.preempted.empty()) admit();  // what was just put out must not come straight back in
    return std::move(plan_);
  }

 private:
  int count() const { return static_cast<int>(running_.size()); }
  bool is_decode(int i) const { return running_[i].known - running_[i].cached == 1; }
  static int64_t more_pages(const SeqState& s, int64_t tokens) {
    return std::max<int64_t>(0, pages_for(s.cached + tokens) - s.pages);
  }

  // As many of the missing tokens of running sequence i as budget and pages allow.
  void give(int i) {
    if (gone_[i]) return;
    const SeqState& s = running_[i];
    int64_t tokens = std::min<int64_t>(budget_, s.known - s.cached);
    if (s.prompt_rows) tokens = std::min<int64_t>(tokens, rows_ + 1);
    if (tokens <= 0) return;
    while (more_pages(s, tokens) > free_) {
      plan_.starved = true;
      int64_t room = (s.pages + free_) * kPageRows - s.cached;
      if (room > 0) {
        tokens = room;  // a shorter chunk fits: nobody has to go
        break;
      }
      int victim = youngest();
      if (victim == 0) {
        // The others are out and this one is still short: pages shared among them are not counted
        // as freed here. They are free once this plan is carried out, so the next one finds them.
        FATHOM_CHECK(!plan_.preempted.empty(), "one sequence of {} tokens: {} pages, {} free",
                     s.known, s.pages, free_);
        return;
      }
      preempt(victim);
      if (victim == i) return;
    }
    if (s.prompt_rows) rows_ -= static_cast<int>(tokens) - 1;
    take_[i] = tokens;
    free_ -= more_pages(s, tokens);
    budget_ -= tokens;
  }

  int youngest() const {
    for (int i = count() - 1; i > 0; --i)
      if (!gone_[i]) return i;
    return 0;
  }

  // Takes back what this plan has given it, too: it may have been a decode, served before.
  void preempt(int i) {
    free_ += running_[i].own_pages + more_pages(running_[i], take_[i]);
    budget_ += take_[i];
    take_[i] = 0;
    gone_[i] = true;
    plan_.preempted.push_back(i);
  }

  void add_slices(bool decodes) {
    for (int i = 0; i < count(); ++i)
      if (take_[i] > 0 && is_decode(i) == decodes)
        plan_.slices.push_back({i, running_[i].cached, running_[i].cached + take_[i]});
  }

  void admit() {
    // Prompts under way have a claim on the pages of all their known tokens.
    int64_t claimed = 0;
    for (int i = 0; i < count(); ++i) {
      const SeqState& s = running_[i];
      claimed += more_pages(s, s.known - s.cached) - more_pages(s, take_[i]);
    }
    for (size_t w = 0; w < waiting_.size() && places_ > 0 && budget_ > 0; ++w, --places_) {
      const SeqState& s = waiting_[w];
      int64_t need = more_pages(s, s.known - s.cached);
      if (need > free_ - claimed) {
        plan_.starved = true;
        break;  // no overtaking: a long prompt must get its turn
      }
      int64_t tokens = std::min<int64_t>(budget_, s.known - s.cached);
      if (s.prompt_rows) {
        tokens = std::min<int64_t>(tokens, rows_ + 1);
        rows_ -= static_cast<int>(tokens) - 1;
      }
      plan_.slices.push_back({count() + static_cast<int>(w), s.cached, s.cached + tokens});
      claimed += need;
      budget_ -= tokens;
    }
  }

  std::span<const SeqState> running_, waiting_;
  std::vector<int64_t> take_;
  std::vector<bool> gone_;
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
