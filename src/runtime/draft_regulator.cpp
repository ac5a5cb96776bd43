#include "runtime/draft_regulator.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace fathom {
namespace {

// The assumed cost before anything has been measured.
constexpr double kFirstCost = 0.4;
// One step in so many does without drafts or is made to have one, so that both kinds stay measured.
constexpr int64_t kProbe = 24;

}  // namespace

void DraftRegulator::Mean::add(double x) {
  ++count;
  value += (x - value) / static_cast<double>(std::min<int64_t>(count, 16));
}

size_t DraftRegulator::place(int sequences) {
  return std::min<size_t>(15, std::bit_width(static_cast<unsigned>(std::max(1, sequences))));
}

void DraftRegulator::begin(int sequences) {
  sequences_ = sequences;
  ++turns_;
  turn_ = turns_ % kProbe != 0 ? Turn::usual : turns_ / kProbe % 2 ? Turn::none : Turn::one;
}

int DraftRegulator::drafts(int most, double acceptance) const {
  if (turn_ == Turn::none) return 0;
  const double least = cost(sequences_);
  int n = 0;
  for (double chance = acceptance; n < most && chance > least; chance *= acceptance) ++n;
  if (turn_ == Turn::one) n = std::max(n, std::min(1, most));
  return n;
}

void DraftRegulator::observe(int sequences, int drafts, double seconds) {
  Times& t = times_[place(sequences)];
  t.sequences = sequences;
  if (drafts == 0) return t.plain.add(seconds);
  t.drafted.add(seconds);
  t.drafts.add(drafts);
}

double DraftRegulator::cost(int sequences) const {
  const Times& t = times_[place(sequences)];
  if (t.plain.count == 0 || t.drafted.count == 0) return kFirstCost;
  const double draft = (t.drafted.value - t.plain.value) / t.drafts.value;
  return std::max(0.0, draft * t.sequences / t.plain.value);
}

void AcceptanceRate::add(bool accepted) { rate_ += ((accepted ? 1.0 : 0.0) - rate_) / 16; }

}  // namespace fathom
