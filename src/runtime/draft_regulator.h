// DraftRegulator decides how many drafts each sequence gets, by what drafts have cost and gained so
// far. It changes the speed of an answer, never its tokens.
//
// Two costs are measured while the engine works: what a step of so many rows takes, and what the
// making of so many drafts takes. They are kept apart because the drafts made behind one step are
// verified in the next. A choice is judged by the tokens that it may expect in the time of its
// step, of its drafting, and of what the host does between steps. Choices that are not made are
// tried now and then; all trials together may cost a small share of the time.
//
// A step behind which nothing is drafted, not even the block's own rows, may overlap with the next
// one, which hides the host's part. Such steps are what drafting as a whole is compared with: where
// it is slower for some steps in a row, it ends, and is begun again later or with fewer sequences.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/speculation.h"

namespace fathom {

// The running rates at which drafts are accepted: at each place, the share of those that were in
// question there, because those before them were accepted.
class AcceptanceRate {
 public:
  // A rate counts about as many of the last observations as `memory` says.
  explicit AcceptanceRate(double memory = 16) : memory_(memory) {}
  // Of `drafts` in a row the first `accepted` were. `age`: steps since the last call.
  void add(int drafts, int accepted, int64_t age = 1);
  double at(int place) const { return rates_[static_cast<size_t>(place)].value; }
  // Returns the variance that at(place) has by chance.
  double luck_at(int place) const;
  // Returns what is assumed of a sequence of which nothing is known but this, the rates of others.
  AcceptanceRate start_of_another() const;

 private:
  struct Rate {
    double value;
    double weight = kFirstWeight;  // observations that the value stands for, up to memory_
  };
  static constexpr double kFirstWeight = 4;

  double memory_;
  // Those of the bundled model's block in prose.
  std::array<Rate, kMaxSpeculativeTokens> rates_ = {{{0.7}, {0.55}, {0.5}, {0.5}}};
};

// Seconds as a function of a count, measured at some counts. Between them they are interpolated;
// beyond them, they are assumed to grow on. Where one count alone was measured, one twice as high
// is assumed to take a certain share longer.
class CostCurve {
 public:
  explicit CostCurve(double growth = 0) : growth_(growth) {}
  // A change of the seconds at a count that was last measured at `since`.
  struct Change {
    double factor = 1;
    int64_t since = 0;
  };
  // `now`: a number that grows with every step.
  Change add(double count, double seconds, int64_t now);
  // Changes what was last measured before that, alike.
  void follow(const Change& change);
  bool known() const { return !points_.empty(); }
  // Whether something was measured close to a count.
  bool known_near(double count) const;
  // Returns the seconds at a count, if known().
  double at(double count) const;

 private:
  struct Point {
    int place = 0;
    double count = 0, seconds = 0;
    int64_t times = 0, last = 0;
  };
  static int place_of(double count);

  double growth_;
  uint64_t seen_ = 0;          // places that were measured at all
  std::vector<Point> points_;  // in the order of places
};

// What is assumed before anything is measured, as shares of the time of a step with one row a
// sequence: the time that one more row a sequence adds, and that of one pass of the MTP block.
struct DraftCosts {
  double row, pass;
};
// As the bundled model and layers of the large one took them, with one sequence.
inline constexpr DraftCosts kGpuDraftCosts = {0.3, 0.15}, kCpuDraftCosts = {0.5, 0.33};

class DraftRegulator {
 public:
  explicit DraftRegulator(const DraftCosts& assumed);

  // A sequence whose next step is to be prepared.
  struct Candidate {
    const AcceptanceRate* acceptance = nullptr;
    int most = 0;    // the most drafts that it may get; 0, too, if it lacks rows of the block
    int drafts = 0;  // set by choose()
  };
  // `overlap`: without drafting their steps would overlap.
  void choose(std::span<Candidate> candidates, bool overlap);
  // Records the time of a step of decodes alone, without drafting and what the host does before it
  // and after it.
  void observe_step(int sequences, int rows, double seconds);
  // Records the time of drafting behind such a step. `passes`: the most drafts of a sequence.
  void observe_drafting(int sequences, int passes, int drafts, double seconds);
  // Records what the host did between such steps.
  void observe_host(int sequences, double seconds);
  // Records a step of decodes alone for which nothing is drafted: the time from the end of the step
  // before it to its own. `most`: drafts that its sequences might get.
  void observe_plain(int sequences, int most, bool overlapped, double seconds);

  // Whether so many sequences draft: if not, those that do give it up, and new ones do not begin.
  bool drafts(int sequences) const;
  // Whether sequences that have given it up should draft again, and that they were asked to.
  bool resumes() const { return worthy_ >= kWorthySteps && now_ - ended_ >= kLeastEnd; }
  void resumed() { worthy_ = 0, ended_ = now_; }
  // Returns how many tokens may be computed again for that if so many are still expected of each
  // sequence.
  int64_t worth_computing(int sequences, int64_t expected) const;

  // Counts drafts for the rates that a new sequence starts with.
  void count(int drafts, int accepted) { typical_.add(drafts, accepted); }
  AcceptanceRate start(int sequences) const;

  // Return the seconds that are assumed of a step, and of drafting.
  double step_seconds(int sequences, int rows) const;
  double drafting_seconds(int sequences, int passes, int drafts) const;
  // Returns those of a step for which nothing is drafted.
  double plain_seconds(int sequences, bool overlap) const;

 private:
  // How many drafts all sequences get: those at the places below `passes` whose chance to be
  // accepted is of `level` or above.
  struct Choice {
    int passes = 0, level = 0;
    int drafts = 0;     // of all sequences
    double tokens = 0;  // expected
    double seconds = 0;
    double speed() const { return tokens / seconds; }
  };
  static constexpr int kLevels = 64;
  using Uniform = std::array<Choice, kMaxSpeculativeTokens + 1>;

  static int level_of(double chance);
  void level_out(std::span<const Candidate> candidates);
  double rate_of(const Candidate& c, int place) const;
  void count_chances(std::span<const Candidate> candidates);
  Choice best_choice(int sequences, Uniform& uniform) const;
  Choice trial_instead_of(const Choice& best, const Uniform& uniform, int sequences);
  double seconds_of(int sequences, int passes, int drafts) const;
  double host_seconds(int sequences) const;
  using PlaceChances = std::array<double, kMaxSpeculativeTokens>;
  PlaceChances typical_chances() const;
  PlaceChances mean_chances() const;
  double speed_of_all(int sequences, int most, const PlaceChances& chances) const;
  void judge(int sequences, double speed, double now, bool overlap);
  double note_gain(int sequences, double speed, bool overlap);

  const DraftCosts assumed_;
  CostCurve step_;                                             // by rows
  std::array<CostCurve, kMaxSpeculativeTokens + 1> drafting_;  // by passes, then drafts a pass
  CostCurve host_, plain_;                                     // by sequences
  AcceptanceRate typical_;

  // Of the candidates' rates, by place: their mean, and the share of a difference from it that is
  // believed.
  struct Leveled {
    double mean = 0, share = 1;
  };
  std::array<Leveled, kMaxSpeculativeTokens> leveled_;
  // Of the candidates, by place and level of the chance: how many, and the sum of their chances.
  struct Chances {
    int count = 0;
    double sum = 0;
  };
  std::array<std::array<Chances, kLevels>, kMaxSpeculativeTokens> at_;
  int most_ = 0;  // drafts that any candidate may get

  // When all sequences had so many drafts the last time, by the power of two of their number.
  struct Tried {
    int64_t last = 0;
    int times = 0;
  };
  using TriedByDrafts = std::array<Tried, kMaxSpeculativeTokens + 1>;
  TriedByDrafts& tried(int sequences);

  // Drafting with so many sequences, by the power of two of their number.
  struct Verdict {
    double lost = 0;     // steps that drafting has cost beyond what it gained, at least 0
    bool ended = false;  // it is not worth it; it is tried again at step `until`
    int64_t until = 0;
    int64_t wait = kFirstWait;  // until then, the next time
  };
  // Drafting ends when it has cost so many steps. Sequences that have given it up are asked back
  // after so many steps in a row for which it would be worth it, so many steps later at the
  // soonest.
  static constexpr double kMostLost = 2;
  static constexpr int kWorthySteps = 16, kLeastEnd = 48;
  static constexpr int64_t kFirstWait = 512, kMostWait = 1024;

  static size_t place_of(int sequences);

  std::array<TriedByDrafts, 16> tried_{};
  std::array<Verdict, 16> verdicts_{};
  // Of the last step: seconds that drafting saves a token, or would save.
  double saves_ = 0;
  int worthy_ = 0;              // steps in a row for which it saves enough to begin again
  int64_t ended_ = -kLeastEnd;  // when it ended last
  int64_t now_ = 0;
  int pending_ = -1;   // the drafts that all sequences were given last, if all had as many
  double credit_ = 4;  // what trials may cost, in steps
};

}  // namespace fathom
