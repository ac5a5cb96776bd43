#include "runtime/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "cache/kv_pool.h"

namespace fathom {

void PrintTo(const Slice& s, std::ostream* out) {
  *out << "seq " << s.seq << " [" << s.begin << ", " << s.end << ")";
}

namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// A sequence of `known` tokens, `cached` of them computed, with just the pages that needs.
SeqState seq(int64_t known, int64_t cached, int priority = 0) {
  return {known, cached, pages_for(cached), priority};
}

// The same, holding these pages.
SeqState holding(SeqState s, const std::vector<int32_t>& pages) {
  s.pages = static_cast<int64_t>(pages.size());
  s.page_ids = pages;
  return s;
}

Plan plan(std::vector<SeqState> running, std::vector<SeqState> waiting, Limits limits) {
  return plan_step(running, waiting, limits);
}

TEST(Scheduler, NothingToDo) {
  Plan p = plan({}, {}, {100, 8, 10});
  EXPECT_THAT(p.slices, IsEmpty());
  EXPECT_THAT(p.preempted, IsEmpty());
}

TEST(Scheduler, AdmitsInOrderAndSharesTheBudget) {
  Plan p = plan({}, {seq(70, 0), seq(50, 0), seq(10, 0)}, {100, 8, 100});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 0, 57}, Slice{1, 0, 33}, Slice{2, 0, 10}));
  p = plan({}, {seq(70, 0), seq(50, 0), seq(10, 0)}, {2, 8, 100});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 0, 1}, Slice{1, 0, 1}));
}

TEST(Scheduler, DecodesComeBeforePrompts) {
  Plan p = plan({seq(500, 100), seq(33, 32), seq(91, 90)}, {seq(5, 0)}, {100, 8, 100});
  EXPECT_THAT(p.slices,
              ElementsAre(Slice{1, 32, 33}, Slice{2, 90, 91}, Slice{0, 100, 193}, Slice{3, 0, 5}));
}

TEST(Scheduler, PromptsShareWhatDecodesLeave) {
  // A short prompt is through at once while a long one goes on, whichever came first.
  Plan p = plan({seq(3000, 1024)}, {seq(100, 0)}, {512, 8, 100});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 1024, 1436}, Slice{1, 0, 100}));
  // Equal shares are whole pages while there is a page for each; the rest goes by rank.
  p = plan({seq(3000, 1024), seq(3000, 0), seq(50, 49)}, {}, {400, 8, 100});
  EXPECT_THAT(p.slices, ElementsAre(Slice{2, 49, 50}, Slice{0, 1024, 1231}, Slice{1, 0, 192}));
  // Less than a page for each: all get as much.
  p = plan({seq(3000, 1000), seq(3000, 0), seq(3000, 0)}, {}, {90, 8, 200});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 1000, 1030}, Slice{1, 0, 30}, Slice{2, 0, 30}));
}

// They delay no prompt and no other decode, and take no page that a known token needs.
TEST(Scheduler, DraftsTakeWhatIsLeft) {
  auto drafting = [](SeqState s, int drafts) {
    s.drafts = drafts;
    return s;
  };
  const SeqState decode = drafting(seq(41, 40), 3);
  EXPECT_THAT(plan({decode}, {}, {100, 8, 10}).slices, ElementsAre(Slice{0, 40, 44}));
  EXPECT_THAT(plan({decode, seq(100, 80), decode}, {}, {27, 8, 10}).slices,
              ElementsAre(Slice{0, 40, 44}, Slice{2, 40, 43}, Slice{1, 80, 100}));
  EXPECT_THAT(plan({decode, seq(100, 64)}, {seq(9, 0)}, {30, 8, 10}).slices,
              ElementsAre(Slice{0, 40, 41}, Slice{1, 64, 84}, Slice{2, 0, 9}));
  // At the end of a page: a free one may be taken, unless one that is admitted needs it.
  const SeqState last = drafting(seq(63, 62), 4);
  EXPECT_THAT(plan({last}, {}, {100, 8, 0}).slices, ElementsAre(Slice{0, 62, 64}));
  EXPECT_THAT(plan({last}, {}, {100, 8, 1}).slices, ElementsAre(Slice{0, 62, 67}));
  EXPECT_THAT(plan({last}, {seq(9, 0)}, {100, 8, 1}).slices,
              ElementsAre(Slice{0, 62, 64}, Slice{1, 0, 9}));
  EXPECT_THAT(plan({last, seq(130, 64)}, {}, {200, 8, 2}).slices,
              ElementsAre(Slice{0, 62, 64}, Slice{1, 64, 130}));
  EXPECT_THAT(plan({last, seq(130, 64)}, {}, {200, 8, 3}).slices,
              ElementsAre(Slice{0, 62, 67}, Slice{1, 64, 130}));
}

TEST(Scheduler, RowsOfPromptsAreRationed) {
  Limits limits{512, 8, 100};
  limits.prompt_rows = 20;
  SeqState watched = seq(200, 0);
  watched.prompt_rows = true;
  EXPECT_THAT(plan({}, {watched}, limits).slices, ElementsAre(Slice{0, 0, 21}));
  EXPECT_THAT(plan({watched}, {watched, seq(300, 0)}, limits).slices,
              ElementsAre(Slice{0, 0, 11}, Slice{1, 0, 11}, Slice{2, 0, 300}));
  // Tokens in front of the first row are not rationed.
  SeqState late = seq(200, 40);
  late.prompt_rows = true;
  late.rows_from = 100;
  EXPECT_THAT(plan({}, {late}, limits).slices, ElementsAre(Slice{0, 40, 121}));
  EXPECT_THAT(plan({watched}, {late}, limits).slices,
              ElementsAre(Slice{0, 0, 11}, Slice{1, 40, 111}));
  limits.prompt_rows = 0;
  EXPECT_THAT(plan({watched, watched}, {}, limits).slices,
              ElementsAre(Slice{0, 0, 1}, Slice{1, 0, 1}));
}

TEST(Scheduler, ABetterPriorityTakesThePlaceOfAWorse) {
  const Limits one{512, 1, 100};
  Plan p = plan({seq(30, 29, 1)}, {seq(5, 0, 0)}, one);
  EXPECT_THAT(p.preempted, ElementsAre(0));
  EXPECT_THAT(p.slices, ElementsAre(Slice{1, 0, 5}));
  p = plan({seq(30, 29, 1)}, {seq(5, 0, 1)}, one);  // as good is not better
  EXPECT_THAT(p.preempted, IsEmpty());
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 29, 30}));
  // The worst goes, and no more of them than it takes.
  p = plan({seq(30, 29, 0), seq(30, 29, 1), seq(30, 29, 2)}, {seq(5, 0, 0), seq(6, 0, 2)},
           {512, 3, 100});
  EXPECT_THAT(p.preempted, ElementsAre(2));
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 29, 30}, Slice{1, 29, 30}, Slice{3, 0, 5}));
}

TEST(Scheduler, ABetterPriorityTakesPagesOfAWorseWhenThatHelps) {
  const std::vector<SeqState> running = {seq(130, 129, 0), seq(130, 129, 5), seq(130, 129, 7)};
  Plan p = plan(running, {seq(64 * 3, 0, 1)}, {512, 8, 1});
  EXPECT_THAT(p.preempted, ElementsAre(2));
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 129, 130}, Slice{1, 129, 130}, Slice{3, 0, 192}));
  // Not even both would do: nobody is put out in vain.
  p = plan(running, {seq(64 * 8, 0, 1)}, {512, 8, 1});
  EXPECT_THAT(p.preempted, IsEmpty());
  // What a waiting one shares with a victim does not count as freed.
  const std::vector<int32_t> held = {4, 9, 2}, found = {4, 9};
  const SeqState victim = holding(seq(130, 129, 5), held);
  const SeqState sharing = holding(seq(64 * 4, 128, 1), found);
  p = plan({victim}, {sharing}, {512, 8, 0});
  EXPECT_THAT(p.preempted, IsEmpty());
  p = plan({victim}, {sharing}, {512, 8, 1});
  EXPECT_THAT(p.preempted, ElementsAre(0));
}

// All begin with the same two pages: whoever stays holds them for the newcomer.
TEST(Scheduler, ABetterPriorityDoesNotPayForSharedPages) {
  const std::vector<int32_t> a = {4, 9, 1}, b = {4, 9, 2}, c = {4, 9, 3}, found = {4, 9};
  const SeqState first = holding(seq(140, 139, 5), a), second = holding(seq(140, 139, 5), b),
                 third = holding(seq(140, 139, 5), c);
  const SeqState newcomer = holding(seq(64 * 3, 128, 0), found);
  // It lacks a place alone.
  Plan p = plan({first, second, third}, {newcomer}, {512, 3, 1});
  EXPECT_THAT(p.preempted, ElementsAre(2));
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 139, 140}, Slice{1, 139, 140}, Slice{3, 128, 192}));
  // It lacks a page: the victim's own one is enough.
  p = plan({first, second, third}, {newcomer}, {512, 8, 0});
  EXPECT_THAT(p.preempted, ElementsAre(2));
  // Without a text in common, what the three hold together comes free with the last of them.
  p = plan({first, second, third}, {seq(64 * 5, 0, 0)}, {512, 8, 0});
  EXPECT_THAT(p.preempted, ElementsAre(2, 1, 0));
  p = plan({first, second, third}, {seq(64 * 5 + 1, 0, 0)}, {512, 8, 0});
  EXPECT_THAT(p.preempted, IsEmpty());
  // With all of them out, the newcomer pays for what it shared with them.
  const SeqState longer = holding(seq(64 * 5, 128, 0), found);
  p = plan({first, second, third}, {longer}, {512, 8, 0});
  EXPECT_THAT(p.preempted, ElementsAre(2, 1, 0));
  EXPECT_THAT(plan({first, second}, {longer}, {512, 8, 0}).preempted, IsEmpty());
}

TEST(Scheduler, OneThatLacksNothingKeepsItsPlace) {
  Plan p = plan({seq(64, 64), seq(10, 9)}, {seq(5, 0)}, {512, 2, 100});
  EXPECT_THAT(p.slices, ElementsAre(Slice{1, 9, 10}));
  EXPECT_THAT(plan({seq(64, 64)}, {}, {512, 2, 100}).slices, IsEmpty());
}

TEST(Scheduler, NeverMoreSequencesThanPlaces) {
  Plan p = plan({seq(33, 32)}, {seq(5, 0), seq(6, 0), seq(7, 0)}, {100, 3, 100});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 32, 33}, Slice{1, 0, 5}, Slice{2, 0, 6}));
}

TEST(Scheduler, ALongPromptIsNotOvertaken) {
  Plan p = plan({seq(10, 9)}, {seq(64 * 5, 0), seq(5, 0)}, {1000, 8, 4});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 9, 10}));
}

TEST(Scheduler, PromptsUnderWayKeepTheirClaimOnPages) {
  // Sequence 0 has 4 more pages to come; of 5 free ones only one is to be had.
  Plan p = plan({seq(64 * 6, 64 * 2)}, {seq(65, 0)}, {64 + 10, 8, 5});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 128, 202}));
  p = plan({seq(64 * 6, 64 * 2)}, {seq(64, 0)}, {300, 8, 5});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 128, 364}, Slice{1, 0, 64}));
}

TEST(Scheduler, OneTokenAtATimeWorks) {
  EXPECT_THAT(plan({seq(50, 10)}, {seq(3, 0)}, {1, 8, 9}).slices, ElementsAre(Slice{0, 10, 11}));
  EXPECT_THAT(plan({seq(50, 49), seq(9, 8)}, {}, {1, 8, 9}).slices, ElementsAre(Slice{0, 49, 50}));
  EXPECT_THAT(plan({}, {seq(3, 0)}, {1, 8, 9}).slices, ElementsAre(Slice{0, 0, 1}));
}

TEST(Scheduler, APrefixInTheCacheIsNotComputedAgain) {
  SeqState s{200, 128, 2};
  Plan p = plan({}, {s}, {1000, 8, 2});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 128, 200}));
}

TEST(Scheduler, OutOfPagesTheYoungestGoes) {
  // All three stand at the end of their page and need a new one; none is free.
  Plan p = plan({seq(65, 64), seq(129, 128), seq(65, 64)}, {seq(2, 0)}, {100, 8, 0});
  // The page of the youngest serves the oldest; the middle one needs another, and is now last.
  EXPECT_THAT(p.preempted, ElementsAre(2, 1));
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 64, 65}));
  EXPECT_THAT(plan({seq(65, 64), seq(129, 128)}, {}, {100, 8, 0}).preempted, ElementsAre(1));
}

TEST(Scheduler, AVictimGivesBackWhatThisPlanGaveIt) {
  // The decode of sequence 1 is planned first, then the prompt of sequence 0 runs dry.
  Plan p = plan({seq(64 * 3, 64), seq(65, 64)}, {}, {1000, 8, 1});
  EXPECT_THAT(p.preempted, ElementsAre(1));
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 64, 192}));
}

TEST(Scheduler, AChunkShrinksBeforeAnyoneIsPutOut) {
  Plan p = plan({seq(64 * 4, 64), seq(30, 29)}, {}, {1000, 8, 1});
  EXPECT_THAT(p.preempted, IsEmpty());
  EXPECT_THAT(p.slices, ElementsAre(Slice{1, 29, 30}, Slice{0, 64, 128}));
}

TEST(Scheduler, NobodyIsAdmittedWhereSomeoneWasPutOut) {
  Plan p = plan({seq(65, 64), seq(129, 128)}, {seq(3, 0)}, {100, 8, 0});
  EXPECT_THAT(p.preempted, ElementsAre(1));
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 64, 65}));
}

TEST(Scheduler, SharedPagesAreNoGain) {
  // The youngest holds two pages, one of them with others: putting it out frees one.
  const std::vector<int32_t> first = {7, 3}, second = {7, 5};
  Plan p = plan({holding(seq(129, 128), first), holding(seq(129, 128), second)}, {}, {100, 8, 0});
  EXPECT_THAT(p.preempted, ElementsAre(1));
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 128, 129}));
  // Nothing gained this time: nobody can move until it is carried out.
  p = plan({holding(seq(129, 128), first), holding(seq(129, 128), first)}, {}, {100, 8, 0});
  EXPECT_THAT(p.preempted, ElementsAre(1));
  EXPECT_THAT(p.slices, IsEmpty());
}

// Those that are leaving may hold pages for as long as a step under way uses them.
TEST(Scheduler, WaitsForPagesThatNobodyInSightHolds) {
  Plan p = plan({seq(129, 128)}, {}, {100, 8, 0});
  EXPECT_THAT(p.slices, IsEmpty());
  EXPECT_THAT(p.preempted, IsEmpty());
}

struct Job {
  int64_t known = 0, cached = 0, pages = 0, final = 0;
  int priority = 0, id = 0;
  bool prompt_rows = false;
  auto rank() const { return std::pair(priority, id); }
};

// Plays random requests to their end with plain arrays for an engine: they arrive as time goes by,
// with priorities, and some go away again.
class Play {
 public:
  explicit Play(unsigned seed) : random_(seed) {
    total_ = roll(4, 12);
    free_ = total_;
    limits_.step_tokens = roll(1, 300);
    limits_.sequences = roll(1, 6);
    limits_.prompt_rows = roll(0, 10);
    priorities_ = roll(1, 3);
  }

  void run(int jobs) {
    int arrived = 0, steps = 0;
    while (arrived < jobs || !running_.empty() || !waiting_.empty()) {
      ASSERT_LT(++steps, 200000);
      while (arrived < jobs && (running_.empty() || roll(0, 3) == 0)) arrive(arrived++);
      step();
      if (testing::Test::HasFatalFailure()) return;
      if (roll(0, 20) == 0) cancel();
    }
    EXPECT_EQ(free_, total_);
  }

 private:
  int roll(int from, int to) {
    return from + static_cast<int>(random_() % static_cast<unsigned>(to - from + 1));
  }
  void insert(std::vector<Job>& list, const Job& j) {
    auto behind = std::upper_bound(list.begin(), list.end(), j.rank(),
                                   [](auto rank, const Job& o) { return rank < o.rank(); });
    list.insert(behind, j);
  }
  void arrive(int id) {
    const int64_t final = roll(2, static_cast<int>(total_) * kPageRows);
    Job j;
    j.known = roll(1, static_cast<int>(final) - 1);
    j.final = final;
    j.priority = roll(1, priorities_);
    j.id = id;
    j.prompt_rows = roll(0, 4) == 0;
    insert(waiting_, j);
  }
  void cancel() {
    std::vector<Job>& list = roll(0, 1) == 0 ? running_ : waiting_;
    if (list.empty()) return;
    const int i = roll(0, static_cast<int>(list.size()) - 1);
    free_ += list[static_cast<size_t>(i)].pages;
    list.erase(list.begin() + i);
  }
  static std::vector<SeqState> states(const std::vector<Job>& jobs) {
    std::vector<SeqState> s;
    for (const Job& j : jobs) s.push_back({j.known, j.cached, j.pages, j.priority, j.prompt_rows});
    return s;
  }

  // What holds of every plan.
  void check(const Plan& p) {
    ASSERT_FALSE(p.slices.empty());
    int64_t tokens = 0, rows = 0;
    std::vector<int> slices(running_.size() + waiting_.size(), 0);
    for (const Slice& s : p.slices) {
      ++slices.at(static_cast<size_t>(s.seq));
      tokens += s.end - s.begin;
      const bool waits = static_cast<size_t>(s.seq) >= running_.size();
      const Job& j = waits ? waiting_[static_cast<size_t>(s.seq) - running_.size()]
                           : running_[static_cast<size_t>(s.seq)];
      if (j.prompt_rows) rows += s.end - s.begin - 1;
    }
    ASSERT_LE(tokens, limits_.step_tokens);
    ASSERT_LE(rows, limits_.prompt_rows);
    for (int v : p.preempted) ASSERT_EQ(slices[static_cast<size_t>(v)], 0);
    for (int n : slices) ASSERT_LE(n, 1);
    for (int w = 0; w < p.admitted(running_.size()); ++w)
      ASSERT_EQ(slices[running_.size() + static_cast<size_t>(w)], 1) << "overtaken";
    // With a token for each and nobody put out, nobody who runs stands still.
    if (!p.preempted.empty() || limits_.step_tokens < limits_.sequences) return;
    for (size_t i = 0; i < running_.size(); ++i) ASSERT_EQ(slices[i], 1) << i;
  }

  void step() {
    limits_.free_pages = free_;
    const Plan p = plan_step(states(running_), states(waiting_), limits_);
    check(p);
    if (testing::Test::HasFatalFailure()) return;
    std::vector<Job> in_work = running_, out;
    const int admitted = p.admitted(running_.size());
    in_work.insert(in_work.end(), waiting_.begin(), waiting_.begin() + admitted);
    waiting_.erase(waiting_.begin(), waiting_.begin() + admitted);
    std::vector<bool> gone(in_work.size(), false);
    for (int v : p.preempted) {
      Job& j = in_work[static_cast<size_t>(v)];
      gone[static_cast<size_t>(v)] = true;
      free_ += std::exchange(j.pages, 0);
      j.cached = 0;
      out.push_back(j);
    }
    for (const Slice& s : p.slices) {
      Job& j = in_work[static_cast<size_t>(s.seq)];
      ASSERT_EQ(s.begin, j.cached);
      ASSERT_GT(s.end, s.begin);
      ASSERT_LE(s.end, j.known);
      j.cached = s.end;
      free_ -= pages_for(j.cached) - j.pages;
      j.pages = pages_for(j.cached);
      if (j.cached == j.known) {
        ++j.known;
        j.prompt_rows = false;
      }
    }
    ASSERT_GE(free_, 0);
    running_.clear();
    for (size_t i = 0; i < in_work.size(); ++i) {
      if (gone[i]) continue;
      if (in_work[i].known > in_work[i].final)
        free_ += in_work[i].pages;
      else
        insert(running_, in_work[i]);
    }
    for (const Job& j : out) insert(waiting_, j);
    ASSERT_LE(running_.size(), static_cast<size_t>(limits_.sequences));
  }

  std::mt19937 random_;
  Limits limits_;
  int64_t total_ = 0, free_ = 0;
  int priorities_ = 1;
  std::vector<Job> running_, waiting_;
};

// Whatever comes, no limit is broken and every request ends: with few pages, mixed priorities, and
// requests that go away in the middle.
TEST(Scheduler, RandomLoadAlwaysEnds) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    Play(seed).run(20);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace fathom
