// DraftRegulator decides how many drafts a sequence gets, by what drafts have cost and gained so
// far. It changes the speed of an answer, never its tokens.
//
// A draft pays if its chance to be accepted is greater than its cost. The cost is counted in
// decoded tokens: the time that one more draft adds to a step, divided by the time of one decoded
// token (a step without drafts, per sequence). Both times are measured while the engine works, by
// the number of sequences.
#pragma once

#include <array>
#include <cstdint>

namespace fathom {

class DraftRegulator {
 public:
  // Begins a step of about that many sequences; drafts() is then called for each of them.
  void begin(int sequences);
  // Returns how many drafts, up to `most`, a sequence should get. `acceptance`: the chance that one
  // of its drafts is accepted, given that those before it were.
  int drafts(int most, double acceptance) const;
  // Records the time of a step of decodes alone, with drafting.
  void observe(int sequences, int drafts, double seconds);

  // Returns the cost of one draft in decoded tokens.
  double cost(int sequences) const;

 private:
  // A running mean in which new values count more than old ones.
  struct Mean {
    double value = 0;
    int64_t count = 0;
    void add(double x);
  };
  struct Times {
    Mean plain;            // seconds of a step without drafts,
    Mean drafted, drafts;  // of one with drafts, and how many it had
    double sequences = 1;  // of the last of either
  };
  static size_t place(int sequences);

  std::array<Times, 16> times_;  // by the sequences' power of two
  int sequences_ = 1;
  // Both kinds of steps must be measured. So now and then a step has no drafts, or has one draft
  // for sequences that would get none.
  enum class Turn { usual, none, one };
  Turn turn_ = Turn::usual;
  int64_t turns_ = 0;
};

// The running rate at which a request's drafts are accepted.
class AcceptanceRate {
 public:
  explicit AcceptanceRate(double start = kStart) : rate_(start) {}
  void add(bool accepted);
  double value() const { return rate_; }

 private:
  static constexpr double kStart = 0.7;
  double rate_;
};

}  // namespace fathom
