// Decides how many drafts a sequence gets, by what drafts have cost and brought so far. It changes
// how fast an answer comes, never what it says.
//
// A draft is worth its place in a step if its chance to be accepted is greater than its cost, where
// the cost is counted in decoded tokens: how much longer a step takes for one draft more, over the
// time that a step of as many sequences takes for one token of each. Both are measured while the
// engine works, by the number of sequences.
#pragma once

#include <array>
#include <cstdint>

namespace fathom {

class DraftRegulator {
 public:
  // The next step will have about so many sequences: drafts() is asked for each of them.
  void begin(int sequences);
  // For a sequence whose drafts were accepted at that rate, each given that those before it were:
  // up to `most`.
  int drafts(int most, double acceptance) const;
  // A step of decodes alone took that long, drafting included.
  void observe(int sequences, int drafts, double seconds);

  // The cost of one draft in decoded tokens.
  double cost(int sequences) const;

 private:
  // A running mean that follows what changes.
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
  // What is never done is never measured. So now and then a step has no drafts, or has one for
  // those that otherwise have none.
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
