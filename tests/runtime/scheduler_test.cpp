#include "runtime/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <random>

#include "runtime/kv_pool.h"

namespace fathom {

void PrintTo(const Slice& s, std::ostream* out) {
  *out << "seq " << s.seq << " [" << s.begin << ", " << s.end << ")";
}

namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// A sequence of `known` tokens, `cached` of them computed, with just the pages that needs.
SeqState seq(int64_t known, int64_t cached) {
  return {known, cached, pages_for(cached), pages_for(cached)};
}

Plan plan(std::vector<SeqState> running, std::vector<SeqState> waiting, Limits limits) {
  return plan_step(running, waiting, limits);
}

TEST(Scheduler, NothingToDo) {
  Plan p = plan({}, {}, {100, 8, 10});
  EXPECT_THAT(p.slices, IsEmpty());
  EXPECT_THAT(p.preempted, IsEmpty());
}

TEST(Scheduler, AdmitsInOrderAndChunksUnderTheBudget) {
  Plan p = plan({}, {seq(70, 0), seq(50, 0), seq(10, 0)}, {100, 8, 100});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 0, 70}, Slice{1, 0, 30}));
}

TEST(Scheduler, DecodesComeBeforePrompts) {
  Plan p = plan({seq(500, 100), seq(33, 32), seq(91, 90)}, {seq(5, 0)}, {100, 8, 100});
  EXPECT_THAT(p.slices, ElementsAre(Slice{1, 32, 33}, Slice{2, 90, 91}, Slice{0, 100, 198}));
}

TEST(Scheduler, OldestPromptFirst) {
  Plan p = plan({seq(300, 200), seq(300, 50)}, {seq(5, 0)}, {120, 8, 100});
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 200, 300}, Slice{1, 50, 70}));
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
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 128, 384}, Slice{1, 0, 44}));
}

TEST(Scheduler, SaysWhenItLackedPages) {
  EXPECT_FALSE(plan({seq(10, 9)}, {seq(64 * 5, 0)}, {1000, 8, 5}).starved);
  EXPECT_TRUE(plan({seq(10, 9)}, {seq(64 * 5, 0)}, {1000, 8, 4}).starved);
  EXPECT_FALSE(plan({seq(10, 9)}, {seq(64 * 5, 0)}, {1000, 1, 4}).starved);  // no place anyway
  EXPECT_TRUE(plan({seq(64 * 4, 64)}, {}, {1000, 8, 1}).starved);
  EXPECT_TRUE(plan({seq(65, 64), seq(65, 64)}, {}, {1000, 8, 0}).starved);
}

TEST(Scheduler, OneTokenAtATimeWorks) {
  EXPECT_THAT(plan({seq(50, 10)}, {seq(3, 0)}, {1, 8, 9}).slices, ElementsAre(Slice{0, 10, 11}));
  EXPECT_THAT(plan({}, {seq(3, 0)}, {1, 8, 9}).slices, ElementsAre(Slice{0, 0, 1}));
}

TEST(Scheduler, APrefixInTheCacheIsNotComputedAgain) {
  SeqState s{200, 128, 2, 0};
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
  std::vector<SeqState> running = {seq(129, 128), {129, 128, 2, 1}};
  Plan p = plan(running, {}, {100, 8, 0});
  EXPECT_THAT(p.preempted, ElementsAre(1));
  EXPECT_THAT(p.slices, ElementsAre(Slice{0, 128, 129}));
  running[1].own_pages = 0;  // nothing gained this time: nobody can move until it is carried out
  p = plan(running, {}, {100, 8, 0});
  EXPECT_THAT(p.preempted, ElementsAre(1));
  EXPECT_THAT(p.slices, IsEmpty());
}

// Plays random requests to their end with plain arrays for an engine. Whatever comes, no limit is
// broken, every request ends, and they are admitted in the order they came.
TEST(Scheduler, RandomLoadAlwaysEnds) {
  struct Job {
    int64_t known, cached, pages, final;
    int id;
  };
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    auto roll = [&](int from, int to) {
      return from + static_cast<int>(random() % static_cast<unsigned>(to - from + 1));
    };
    const int64_t total_pages = roll(4, 12);
    const Limits fixed{roll(1, 300), roll(1, 6), 0};
    std::deque<Job> waiting;
    std::vector<Job> running;
    for (int id = 0; id < 20; ++id) {
      int64_t final = roll(2, static_cast<int>(total_pages) * kPageRows);
      waiting.push_back({roll(1, static_cast<int>(final) - 1), 0, 0, final, id});
    }
    int64_t free = total_pages;
    int done = 0, admitted = -1;
    for (int step = 0; done < 20; ++step) {
      ASSERT_LT(step, 200000) << "seed " << seed;
      auto states = [](const auto& jobs) {
        std::vector<SeqState> s;
        for (const Job& j : jobs) s.push_back({j.known, j.cached, j.pages, j.pages});
        return s;
      };
      Limits limits = fixed;
      limits.free_pages = free;
      Plan p = plan_step(states(running), states(waiting), limits);
      ASSERT_FALSE(p.slices.empty()) << "seed " << seed;
      int64_t tokens = 0;
      std::vector<bool> gone(running.size(), false);
      for (int v : p.preempted) gone[static_cast<size_t>(v)] = true;
      const size_t before = running.size();
      for (const Slice& s : p.slices) {
        if (static_cast<size_t>(s.seq) >= before) {
          Job j = waiting.front();
          waiting.pop_front();
          if (j.id > admitted) {
            ASSERT_EQ(j.id, admitted + 1);
            admitted = j.id;
          }
          running.push_back(j);
        } else {
          ASSERT_FALSE(gone[static_cast<size_t>(s.seq)]);
        }
        tokens += s.end - s.begin;
      }
      ASSERT_LE(tokens, fixed.step_tokens);
      for (int v : p.preempted) {
        Job& j = running[static_cast<size_t>(v)];
        free += std::exchange(j.pages, 0);
        j.cached = 0;
        waiting.push_front(j);
      }
      for (const Slice& s : p.slices) {
        Job& j = running[static_cast<size_t>(s.seq)];
        ASSERT_EQ(s.begin, j.cached);
        ASSERT_GT(s.end, s.begin);
        ASSERT_LE(s.end, j.known);
        j.cached = s.end;
        free -= pages_for(j.cached) - j.pages;
        j.pages = pages_for(j.cached);
        if (j.cached == j.known) ++j.known;
      }
      ASSERT_GE(free, 0) << "seed " << seed;
      for (size_t i = running.size(); i-- > 0;) {
        bool finished = running[i].known > running[i].final;
        if (finished) {
          free += running[i].pages;
          ++done;
        }
        if (finished || (i < gone.size() && gone[i]))
          running.erase(running.begin() + static_cast<int64_t>(i));
      }
      ASSERT_LE(running.size(), static_cast<size_t>(fixed.max_running));
    }
    EXPECT_EQ(free, total_pages);
  }
}

}  // namespace
}  // namespace fathom
