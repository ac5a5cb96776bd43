// Drafts are made where they pay, by what was measured.
#include "runtime/draft_regulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <random>
#include <utility>

namespace fathom {
namespace {

// A machine whose times are known.
struct CostTable {
  const char* name;
  std::function<double(int rows)> step;
  std::function<double(int sequences, int passes, double drafts_a_pass)> drafting;
  // What the host does for a step. Steps that overlap hide it.
  std::function<double(int sequences)> host;
  // The time of a step for which nothing is drafted.
  double plain(int sequences) const { return std::max(step(sequences), host(sequences)); }
};

// Straight lines between the points.
std::function<double(int)> lines(std::vector<std::pair<int, double>> points) {
  return [points](int x) {
    size_t i = 1;
    while (i + 1 < points.size() && points[i].first < x) ++i;
    const auto [a, from] = points[i - 1];
    const auto [b, to] = points[i];
    return from + (to - from) * (x - a) / (b - a);
  };
}

const std::vector<CostTable>& machines() {
  static const std::vector<CostTable> all = {
      // Milliseconds of one H200 with the layers of the large model, and with the bundled model, by
      // the tables of docs/speculation.md.
      {"gpu, large model",
       lines({{1, 17},
              {2, 25},
              {3, 30},
              {4, 36},
              {8, 47},
              {16, 77},
              {24, 102},
              {32, 117},
              {64, 153},
              {96, 170},
              {128, 195},
              {192, 214},
              {256, 229},
              {320, 245}}),
       [](int, int passes, double drafts) { return 0.3 + passes * (1.3 + 0.01 * drafts); },
       [](int n) { return 0.05 + 0.002 * n; }},
      {"gpu, bundled model", [](int rows) { return 0.3 + 0.003 * rows; },
       [](int, int passes, double drafts) { return 0.04 + passes * (0.06 + 0.0014 * drafts); },
       [](int n) { return 0.05 + 0.001 * n; }},
      {"gpu, bundled model, slow host", [](int rows) { return 0.3 + 0.003 * rows; },
       [](int, int passes, double drafts) { return 0.04 + passes * (0.06 + 0.0014 * drafts); },
       [](int n) { return 0.1 + 0.01 * n; }},
      // A step waits for its arithmetic alone.
      {"cpu, bundled model", [](int rows) { return 0.05 + rows; },
       [](int n, int passes, double drafts) { return 0.1 * n + passes * 0.3 * drafts; },
       [](int) { return 0.001; }},
      // Rows are free up to the next multiple of 8.
      {"stairs", [](int rows) { return 1 + 0.2 * static_cast<double>((rows + 7) / 8); },
       [](int, int passes, double) { return 0.02 + 0.05 * passes; },
       [](int n) { return 0.02 + 0.01 * n; }},
      // Drafts are dear, rows are not.
      {"dear drafts", [](int rows) { return 1 + 0.001 * rows; },
       [](int, int passes, double) { return 0.01 + 0.9 * passes; }, [](int) { return 0.1; }},
  };
  return all;
}

struct Load {
  int sequences = 1;
  double acceptance = 0.7;
  int most = kMaxSpeculativeTokens;
  double acceptance_of_others = -1;  // of every second sequence, if not negative
  double of(size_t sequence) const {
    return acceptance_of_others >= 0 && sequence % 2 == 1 ? acceptance_of_others : acceptance;
  }
};
constexpr int kAnswer = 300;  // tokens of a mean answer

// Tokens in a unit of time if every sequence always gets so many drafts; none: without speculation.
double fixed_speed(const CostTable& m, const Load& l, int drafts) {
  if (drafts == 0) return l.sequences / m.plain(l.sequences);
  double tokens = 1, chance = 1;
  for (int i = 0; i < drafts; ++i) tokens += chance *= l.acceptance;
  return l.sequences * tokens /
         (m.step(l.sequences * (1 + drafts)) + m.drafting(l.sequences, drafts, l.sequences) +
          m.host(l.sequences));
}

double best_speed(const CostTable& m, const Load& l) {
  double best = 0;
  for (int k = 0; k <= l.most; ++k) best = std::max(best, fixed_speed(m, l, k));
  return best;
}

// Measured times are longer than the table's, sometimes by far.
constexpr double kNoise = 0.03, kMeanNoise = 1 + kNoise * 0.798 + 2.0 / 500;

// An engine with a clock that a table moves. All costs count: those of the beginning, too, and
// those of trials.
class Simulation {
 public:
  explicit Simulation(unsigned seed = 1) : random_(seed) {}
  // Every shape of a step or of drafting is recorded when it comes for the second time. The engine
  // is told, and observes neither time. Recordings do not count for speed().
  void record_shapes() { records_ = true; }

  // Returns the speed over so many steps, but for the noise, which is the same for any drafts.
  double speed(const CostTable& m, const Load& l, int steps) {
    requests_.resize(static_cast<size_t>(l.sequences));
    renew();
    double clock = 0;
    int64_t tokens = 0;
    for (int step = 0; step < steps; ++step) {
      const bool drafts = std::any_of(requests_.begin(), requests_.end(),
                                      [](const Request& r) { return !r.plain; });
      clock += drafts ? drafting_step(m, l, tokens) : plain_step(m, l, tokens);
      if (regulator_.resumes()) clock += resume(m);
      renew();
    }
    return kMeanNoise * static_cast<double>(tokens) / clock;
  }

  const DraftRegulator& regulator() const { return regulator_; }
  // Of sequence i: all drafts so far.
  int64_t drafts_of(size_t i) const { return requests_[i].all_drafts; }
  // Whether none drafts.
  bool ended() const {
    return std::all_of(requests_.begin(), requests_.end(),
                       [](const Request& r) { return r.plain; });
  }

 private:
  struct Request {
    AcceptanceRate acceptance;
    int drafts = 0, left = 0;
    int64_t age = 1, all_drafts = 0;
    bool plain = false;  // has given drafting up,
    int lacking = 0;     // and so many tokens without rows of the block since then
  };
  double drafting_step(const CostTable& m, const Load& l, int64_t& tokens) {
    int rows = l.sequences;
    for (const Request& r : requests_) rows += r.drafts;
    const double step = time(m.step(rows)), host = time(m.host(l.sequences));
    if (usual({0, rows, 0})) regulator_.observe_step(l.sequences, rows, step);
    regulator_.observe_host(l.sequences, host);
    for (size_t i = 0; i < requests_.size(); ++i) tokens += verify(requests_[i], l.of(i));
    choose(l);
    int passes = 0, drafts = 0;
    for (const Request& r : requests_) {
      passes = std::max(passes, r.drafts);
      drafts += r.drafts;
    }
    const double each = passes > 0 ? static_cast<double>(drafts) / passes : l.sequences;
    const double drafting = time(m.drafting(l.sequences, passes, each));
    if (usual({passes, rows, drafts}))
      regulator_.observe_drafting(l.sequences, passes, drafts, drafting);
    return step + drafting + host;
  }
  double plain_step(const CostTable& m, const Load& l, int64_t& tokens) {
    const double seconds = time(m.plain(l.sequences));
    regulator_.observe_plain(l.sequences, l.most, true, seconds);
    for (size_t i = 0; i < requests_.size(); ++i) tokens += verify(requests_[i], l.of(i));
    return seconds;
  }
  // Computes again what lacks rows of the block, all in one step.
  double resume(const CostTable& m) {
    int rows = 0;
    for (Request& r : requests_) {
      if (!r.plain ||
          r.lacking > regulator_.worth_computing(static_cast<int>(requests_.size()), r.left))
        continue;
      rows += std::exchange(r.lacking, 0);
      r.plain = false;
    }
    regulator_.resumed();
    return rows > 0 ? m.step(rows) : 0;
  }
  // Another request comes in the place of one that ends.
  void renew() {
    const int n = static_cast<int>(requests_.size());
    for (Request& r : requests_) {
      if (r.left > 0) continue;
      const int64_t drafts = r.all_drafts;
      r = {regulator_.start(n)};
      r.all_drafts = drafts;
      r.plain = !regulator_.drafts(n);
      r.left = 1 + static_cast<int>(random_() % (2 * kAnswer));
    }
  }
  int verify(Request& r, double acceptance) {
    int accepted = 0;
    while (accepted < r.drafts && std::bernoulli_distribution(acceptance)(random_)) ++accepted;
    ++r.age;
    if (r.drafts > 0) {
      r.acceptance.add(r.drafts, accepted, r.age - 1);
      regulator_.count(r.drafts, accepted);
      r.age = 1;
    }
    r.left -= accepted + 1;
    if (r.plain) ++r.lacking;
    return accepted + 1;
  }
  void choose(const Load& l) {
    std::vector<DraftRegulator::Candidate> candidates;
    for (Request& r : requests_) candidates.push_back({&r.acceptance, r.plain ? 0 : l.most});
    regulator_.choose(candidates, true);
    for (size_t i = 0; i < requests_.size(); ++i) {
      Request& r = requests_[i];
      r.plain |= !regulator_.drafts(l.sequences);
      r.all_drafts += r.drafts = r.plain ? 0 : candidates[i].drafts;
    }
  }
  bool usual(const std::array<int, 3>& shape) { return !records_ || ++met_[shape] > 2; }
  double time(double t) {
    t *= 1 + std::abs(std::normal_distribution<>(0, kNoise)(random_));
    return random_() % 500 == 0 ? 3 * t : t;
  }

  DraftRegulator regulator_{kGpuDraftCosts};
  std::mt19937 random_;
  std::vector<Request> requests_;
  bool records_ = false;
  std::map<std::array<int, 3>, int> met_;
};

TEST(DraftRegulator, ComesNearTheBestNumberAndIsNeverSlowerThanNone) {
  double sum = 0, sum_to_none = 0, least = 1, least_to_none = 1;
  int loads = 0;
  for (const CostTable& m : machines())
    for (int n : {1, 2, 4, 8, 16, 32, 64})
      for (double acceptance : {0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95})
        for (int most : {1, 2, 4}) {
          const Load l{n, acceptance, most};
          const double best = best_speed(m, l), none = fixed_speed(m, l, 0);
          const double got = Simulation(1).speed(m, l, n < 8 ? 6000 : 1500);
          EXPECT_GE(got / none, 0.975) << m.name << ", " << n << ", " << acceptance << ", " << most;
          EXPECT_GE(got / best, 0.9) << m.name << ", " << n << ", " << acceptance << ", " << most;
          sum += got / best;
          sum_to_none += got / none;
          least = std::min(least, got / best);
          least_to_none = std::min(least_to_none, got / none);
          ++loads;
        }
  EXPECT_GE(sum / loads, 0.985);
  std::printf(
      "of the best fixed number: %.3f, at the least %.3f; of none: %.3f, at the least %.3f\n",
      sum / loads, least, sum_to_none / loads, least_to_none);
}

// What was learned with one number of sequences helps with another, and misleads nobody.
TEST(DraftRegulator, FollowsTheNumberOfSequences) {
  for (const CostTable& m : machines()) {
    Simulation s;
    for (int round = 0; round < 2; ++round)
      for (int n : {1, 64, 4, 32, 3, 48}) {
        const Load l{n, 0.75};
        const double got = s.speed(m, l, 500);
        EXPECT_GE(got / fixed_speed(m, l, 0), 0.95) << m.name << ", " << n;
        EXPECT_GE(got / best_speed(m, l), 0.91) << m.name << ", " << n;
      }
  }
}

// On a GPU, where shapes are recorded before they are fast: what is not observed is tried again.
TEST(DraftRegulator, LearnsFromReplaysAlone) {
  for (const CostTable& m : machines())
    for (int most : {1, 2, 4}) {
      Simulation s;
      s.record_shapes();
      for (int n : {1, 4, 16, 64}) {
        const Load l{n, 0.75, most};
        const double got = s.speed(m, l, 2000);
        EXPECT_GE(got / fixed_speed(m, l, 0), 0.96) << m.name << ", " << n << ", " << most;
        EXPECT_GE(got / best_speed(m, l), 0.9) << m.name << ", " << n << ", " << most;
      }
    }
}

// Where steps that overlap are faster than steps with drafts, drafting ends soon, and it begins
// again when there are fewer requests.
TEST(DraftRegulator, EndsWhereOverlappingIsFaster) {
  const CostTable& slow = machines()[2];
  const Load one{1, 0.85, 2}, many{64, 0.85, 2};
  ASSERT_GT(best_speed(slow, one), 1.1 * fixed_speed(slow, one, 0));
  ASSERT_EQ(best_speed(slow, many), fixed_speed(slow, many, 0));
  Simulation s;
  s.speed(slow, many, 60);
  EXPECT_TRUE(s.ended());
  EXPECT_GE(s.speed(slow, many, 3000) / fixed_speed(slow, many, 0), 0.98);
  s.speed(slow, one, 800);
  EXPECT_FALSE(s.ended());
  EXPECT_GE(s.speed(slow, one, 2000) / best_speed(slow, one), 0.96);
  s.speed(slow, many, 60);
  EXPECT_TRUE(s.ended());
}

TEST(DraftRegulator, EndsWhereDraftsBecomeDear) {
  const CostTable& cheap = machines()[1];
  const CostTable dear = {
      "its rows are no longer cheap", [](int rows) { return 0.02 * rows; },
      [](int, int passes, double drafts) { return 0.02 * (2 + passes * drafts); },
      [](int) { return 0.01; }};
  const Load l{16, 0.9, 2};
  ASSERT_EQ(best_speed(dear, l), fixed_speed(dear, l, 0));
  ASSERT_GT(best_speed(cheap, l), 1.2 * fixed_speed(cheap, l, 0));
  Simulation s;
  s.speed(cheap, l, 2000);
  s.speed(dear, l, 500);
  EXPECT_GE(s.speed(dear, l, 2000) / best_speed(dear, l), 0.97);
  EXPECT_TRUE(s.ended());
}

// The time of a step and that of the drafting behind it are told apart, though drafts that are
// made behind a step are verified in the next.
TEST(DraftRegulator, LearnsBothCosts) {
  for (const CostTable& m : machines()) {
    Simulation s;
    s.speed(m, {8, 0.6, 2}, 4000);
    const DraftRegulator& r = s.regulator();
    for (int k = 0; k <= 2; ++k) {
      EXPECT_NEAR(r.step_seconds(8, 8 + 8 * k) / m.step(8 + 8 * k), 1, 0.15) << m.name << ", " << k;
      EXPECT_NEAR(r.drafting_seconds(8, k, 8 * k) / m.drafting(8, k, 8), 1, 0.15)
          << m.name << ", " << k;
    }
  }
}

TEST(DraftRegulator, GivesDraftsToThoseWhoseAreAccepted) {
  Simulation s;
  const CostTable& large = machines()[0];
  const double got = s.speed(large, {16, 0.95, 2, 0.05}, 3000);
  for (size_t i = 0; i < 16; i += 2) EXPECT_GT(s.drafts_of(i), 10 * s.drafts_of(i + 1));
  EXPECT_GT(got, 1.1 * fixed_speed(large, {16, 0, 0}, 0));
}

TEST(DraftRegulator, KeepsToTheMostOfEach) {
  DraftRegulator r(kGpuDraftCosts);
  AcceptanceRate good;
  for (int i = 0; i < 100; ++i) good.add(4, 4);
  std::vector<DraftRegulator::Candidate> candidates;
  r.choose(candidates, false);  // nobody
  candidates = {{&good, 0}, {&good, 1}, {&good, 4}, {&good, 3}};
  for (int step = 0; step < 300; ++step) {
    r.choose(candidates, false);
    int rows = 4, passes = 0;
    for (const DraftRegulator::Candidate& c : candidates) {
      EXPECT_LE(c.drafts, c.most);
      rows += c.drafts;
      passes = std::max(passes, c.drafts);
    }
    r.observe_step(4, rows, 1);  // rows cost nothing
    r.observe_drafting(4, passes, rows - 4, 0.01);
  }
  r.choose(candidates, false);
  if (candidates[2].drafts < 4) r.choose(candidates, false);  // of two neighbours one is no trial
  EXPECT_EQ(candidates[1].drafts, 1);
  EXPECT_EQ(candidates[2].drafts, 4);
  EXPECT_EQ(candidates[3].drafts, 3);
}

// A graph that is recorded when it is first needed takes a thousand times as long, once.
TEST(CostCurve, DoesNotTakeTheFirstTimeForTheRule) {
  CostCurve c;
  c.add(4, 1000, 1);
  EXPECT_FALSE(c.known());
  c.add(4, 1, 2);
  EXPECT_EQ(c.at(4), 1);
  c.add(8, 2000, 3);
  c.add(8, 3, 4);
  EXPECT_EQ(c.at(6), 2);
  for (int i = 0; i < 10; ++i) c.add(8, 3, 5 + i);
  c.add(8, 5000, 20);
  EXPECT_LT(c.at(8), 3.3);
  for (int i = 0; i < 200; ++i) c.add(8, 30, 21 + i);
  EXPECT_NEAR(c.at(8), 30, 1);
}

TEST(AcceptanceRate, FollowsTheLastDraftsAtEachPlace) {
  AcceptanceRate rate;
  for (int i = 0; i < 60; ++i) rate.add(2, 1);
  EXPECT_GT(rate.at(0), 0.95);
  EXPECT_LT(rate.at(1), 0.05);
  const double third = rate.at(2);
  EXPECT_EQ(third, AcceptanceRate().at(2)) << "it never was in question";
  for (int i = 0; i < 60; ++i) rate.add(3, 0);
  EXPECT_LT(rate.at(0), 0.05);
  // After a long time without drafts few of them tell much.
  for (int i = 0; i < 3; ++i) rate.add(1, 1, 300);
  EXPECT_GT(rate.at(0), 0.5);
  EXPECT_EQ(rate.start_of_another().at(0), rate.at(0));
  EXPECT_GT(rate.start_of_another().luck_at(0), rate.luck_at(0));
}

}  // namespace
}  // namespace fathom
