#include "runtime/draft_regulator.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace fathom {
namespace {

// The share of the time that trials may cost, and what may be saved up for them, in steps.
constexpr double kTrialShare = 1.0 / 256, kMostCredit = 4;
// Steps after which a choice may be tried again. One that is new is due as if it had not been tried
// for long, and three times: a curve does not use its first measurement, and the next may be
// disturbed.
constexpr int64_t kTrialAge = 24;
constexpr int kFirstTrials = 3;
constexpr double kNewAge = 2000;
// Drafts must promise so much more speed than none: what is measured is never exact.
constexpr double kLeastGain = 1.01;
// Beginning again costs time, since the block's rows must be computed: so much speed is asked for.
constexpr double kGainToResume = 1.05;

}  // namespace

// A rate that was not observed for long says little about the next drafts.
void AcceptanceRate::add(int drafts, int accepted, int64_t age) {
  const double fresh = std::min(0.25, static_cast<double>(age) / 256);
  for (int place = 0; place < std::min(drafts, accepted + 1); ++place) {
    Rate& r = rates_[static_cast<size_t>(place)];
    const double share = std::max(fresh, 1 / (r.weight + 1));
    r.value += ((place < accepted ? 1.0 : 0.0) - r.value) * share;
    r.weight = std::min(r.weight + 1, memory_ - 1);
  }
}

double AcceptanceRate::luck_at(int place) const {
  const Rate& r = rates_[static_cast<size_t>(place)];
  return r.value * (1 - r.value) / (2 * r.weight + 1);
}

AcceptanceRate AcceptanceRate::start_of_another() const {
  AcceptanceRate a;
  for (size_t i = 0; i < rates_.size(); ++i) a.rates_[i].value = rates_[i].value;
  return a;
}

int CostCurve::place_of(double count) {
  if (count <= 8) return static_cast<int>(std::lround(std::max(0.0, count)));
  return std::min(63, 8 + static_cast<int>(std::lround(4 * std::log2(count / 8))));
}

// The first measurement at a place is not used: then a GPU's graph is recorded and a CPU's memory
// touched. Of the next ones the least counts, later a running mean: what disturbs a measurement
// makes it longer, and one that is far too long is taken for at most twice the mean. Where steps
// get slower, because texts grow or other programs run, those that are not taken do, too. What
// corrects one of the first measurements tells nothing of that.
CostCurve::Change CostCurve::add(double count, double seconds, int64_t now) {
  const int place = place_of(count);
  const uint64_t bit = uint64_t{1} << place;
  if (!(seen_ & bit)) {
    seen_ |= bit;
    return {};
  }
  auto p = std::lower_bound(points_.begin(), points_.end(), place,
                            [](const Point& a, int b) { return a.place < b; });
  if (p == points_.end() || p->place != place)
    p = points_.insert(p, {place, count, seconds, 0, now});
  const auto age = static_cast<double>(now - p->last);
  const double share = std::clamp(age / 1024, 1.0 / 16, 0.25), before = p->seconds;
  p->count += (count - p->count) * share;
  const bool learned = p->times >= 3,
             far_less = seconds < 0.85 * p->seconds && now - p->last >= kTrialAge;
  if (!learned || far_less)
    p->seconds = std::min(p->seconds, seconds);
  else
    p->seconds += (std::min(seconds, 2 * p->seconds) - p->seconds) * share;
  const bool changed = learned && now - p->last < kTrialAge;
  const Change change = {changed ? p->seconds / before : 1, p->last};
  ++p->times;
  p->last = now;
  follow(change);
  return change;
}

void CostCurve::follow(const Change& change) {
  for (Point& p : points_)
    if (p.last < change.since) p.seconds *= change.factor;
}

bool CostCurve::known_near(double count) const {
  return std::any_of(points_.begin(), points_.end(), [&](const Point& p) {
    return count <= 1.25 * p.count && p.count <= 1.25 * count;
  });
}

double CostCurve::at(double count) const {
  FATHOM_CHECK(known(), "a cost of {} that was never measured", count);
  auto above = std::lower_bound(points_.begin(), points_.end(), count,
                                [](const Point& p, double c) { return p.count < c; });
  if (above == points_.begin()) {
    if (above->count <= count) return above->seconds;
    return above->seconds * (1 + growth_ * (count / above->count - 1));
  }
  const Point& below = *(above - 1);
  if (above == points_.end()) {
    auto other = above - 1;  // far enough for a slope that is no noise
    while (other != points_.begin() && 1.4 * other->count > below.count) --other;
    double power = std::log2(1 + growth_);
    if (1.4 * other->count <= below.count)
      power = std::log(below.seconds / other->seconds) / std::log(below.count / other->count);
    return below.seconds * std::pow(count / below.count, std::clamp(power, 0.0, 1.0));
  }
  const double share = (count - below.count) / (above->count - below.count);
  return below.seconds + (above->seconds - below.seconds) * share;
}

DraftRegulator::DraftRegulator(const DraftCosts& assumed)
    : assumed_(assumed), step_(assumed.row), host_(0.5), plain_(assumed.row), typical_(128) {
  drafting_.fill(CostCurve(assumed.row));
}

void DraftRegulator::choose(std::span<Candidate> candidates, bool overlap) {
  if (candidates.empty()) return;
  ++now_;
  const int sequences = static_cast<int>(candidates.size());
  count_chances(candidates);
  Uniform uniform;
  const Choice best = best_choice(sequences, uniform);
  const Choice made = trial_instead_of(best, uniform, sequences);
  pending_ = made.drafts == uniform[static_cast<size_t>(made.passes)].drafts ? made.passes : -1;
  for (Candidate& c : candidates) {
    c.drafts = 0;
    double chance = 1;
    while (c.drafts < std::min(made.passes, c.most)) {
      chance *= rate_of(c, c.drafts);
      if (level_of(chance) < made.level) break;
      ++c.drafts;
    }
  }
  if (most_ > 0) {
    const double of_all = speed_of_all(sequences, most_, mean_chances());
    judge(sequences, std::max(of_all, best.speed()), best.speed(), overlap);
  }
}

// `speed`: what all sequences might have with drafts, if those that have some now are like the
// others; `now`: what they have, which is less where many have given drafting up.
void DraftRegulator::judge(int sequences, double speed, double now, bool overlap) {
  if (!step_.known()) return;
  Verdict& v = verdicts_[place_of(sequences)];
  if (v.ended && now_ >= v.until) v.ended = false;  // tried again
  const double gain = note_gain(sequences, speed, overlap);
  const bool promising = gain >= kGainToResume;
  v.lost = std::max(0.0, v.lost + 1 - (promising ? gain : gain * now / speed));
  if (worthy_ >= 4 * kWorthySteps) v.wait = kFirstWait;
  if (v.lost < kMostLost) return;
  v = {0, true, now_ + v.wait, std::min(2 * v.wait, kMostWait)};
  ended_ = now_;
}

// Returns the speed as a multiple of that without drafting.
double DraftRegulator::note_gain(int sequences, double speed, bool overlap) {
  const double plain = sequences / plain_seconds(sequences, overlap);
  worthy_ = speed >= kGainToResume * plain ? worthy_ + 1 : 0;
  saves_ = 1 / plain - 1 / speed;
  return speed / plain;
}

int64_t DraftRegulator::worth_computing(int sequences, int64_t expected) const {
  const double row = step_seconds(sequences, 2 * sequences) - step_seconds(sequences, sequences);
  if (row <= 0) return expected;
  return static_cast<int64_t>(saves_ * static_cast<double>(expected) * sequences / row);
}

bool DraftRegulator::drafts(int sequences) const {
  const Verdict& v = verdicts_[place_of(sequences)];
  return !v.ended || now_ >= v.until;
}

// Where drafting has ended, the rates that are known may be those of other texts.
AcceptanceRate DraftRegulator::start(int sequences) const {
  return verdicts_[place_of(sequences)].ended ? AcceptanceRate() : typical_.start_of_another();
}

int DraftRegulator::level_of(double chance) {
  return std::clamp(static_cast<int>(chance * kLevels), 0, kLevels - 1);
}

// The rates of few drafts differ by chance alone, and whoever picks the greatest picks luck. So
// each is moved towards the mean of all by the share of their differences that chance explains.
void DraftRegulator::level_out(std::span<const Candidate> candidates) {
  for (int place = 0; place < kMaxSpeculativeTokens; ++place) {
    double n = 0, sum = 0, squares = 0, luck = 0;
    for (const Candidate& c : candidates) {
      if (c.most <= place) continue;
      const double rate = c.acceptance->at(place);
      n += 1;
      sum += rate;
      squares += rate * rate;
      luck += c.acceptance->luck_at(place);
    }
    Leveled& l = leveled_[static_cast<size_t>(place)];
    l = {0, 1};
    if (n < 2) continue;
    l.mean = sum / n;
    const double variance = (squares - sum * l.mean) / (n - 1);
    l.share = variance > 0 ? std::max(0.0, 1 - luck / n / variance) : 0;
  }
}

double DraftRegulator::rate_of(const Candidate& c, int place) const {
  const Leveled& l = leveled_[static_cast<size_t>(place)];
  return l.mean + (c.acceptance->at(place) - l.mean) * l.share;
}

void DraftRegulator::count_chances(std::span<const Candidate> candidates) {
  level_out(candidates);
  for (auto& of_place : at_) of_place.fill({});
  most_ = 0;
  for (const Candidate& c : candidates) {
    double chance = 1;
    for (int place = 0; place < c.most; ++place) {
      chance *= rate_of(c, place);
      Chances& x = at_[static_cast<size_t>(place)][static_cast<size_t>(level_of(chance))];
      ++x.count;
      x.sum += chance;
    }
    most_ = std::max(most_, c.most);
  }
}

// For each number of passes, drafts are added from those of the greatest chance down.
DraftRegulator::Choice DraftRegulator::best_choice(int sequences, Uniform& uniform) const {
  Choice& none = uniform[0];
  none.tokens = sequences;
  none.seconds = seconds_of(sequences, 0, 0);
  Choice best;
  for (int passes = 1; passes <= most_; ++passes) {
    Choice c = {passes, 0, 0, none.tokens, 0};
    for (int level = kLevels - 1; level >= 0; --level) {
      const int before = c.drafts;
      for (int place = 0; place < passes; ++place) {
        const Chances& x = at_[static_cast<size_t>(place)][static_cast<size_t>(level)];
        c.drafts += x.count;
        c.tokens += x.sum;
      }
      if (c.drafts == before) continue;
      c.level = level;
      c.seconds = seconds_of(sequences, passes, c.drafts);
      if (best.drafts == 0 || c.speed() > best.speed()) best = c;
    }
    c.level = 0;
    uniform[static_cast<size_t>(passes)] = c;
  }
  return best.drafts > 0 && best.speed() > kLeastGain * none.speed() ? best : none;
}

// A trial gives all sequences the same number of drafts. It costs the time that `best` would take
// less for the tokens that the trial brings; that must have been saved up. The one that is due most
// is waited for, or cheaper ones would use up what is saved.
DraftRegulator::Choice DraftRegulator::trial_instead_of(const Choice& best, const Uniform& uniform,
                                                        int sequences) {
  credit_ = std::min(credit_ + kTrialShare, kMostCredit);
  const Choice* due = nullptr;
  double most_due = 0, price = 0;
  for (int k = 0; k <= most_; ++k) {
    const Choice& c = uniform[static_cast<size_t>(k)];
    if (c.drafts == best.drafts && c.passes == best.passes) continue;
    const Tried& t = tried(sequences)[static_cast<size_t>(k)];
    const bool is_new = t.times < kFirstTrials;
    const auto age = static_cast<double>(now_ - t.last);
    if (!is_new && age < kTrialAge) continue;
    const double cost = std::max(0.0, c.seconds * (1 - c.speed() / best.speed())) / best.seconds;
    const double score = (is_new ? kNewAge : age) / (cost + 0.05);
    if (score <= most_due) continue;
    most_due = score;
    price = std::min(cost, kMostCredit);
    due = &c;
  }
  if (!due || price > credit_) return best;
  credit_ -= price;
  return *due;
}

size_t DraftRegulator::place_of(int sequences) {
  return std::min<size_t>(15, std::bit_width(static_cast<unsigned>(sequences)));
}

DraftRegulator::TriedByDrafts& DraftRegulator::tried(int sequences) {
  return tried_[place_of(sequences)];
}

void DraftRegulator::observe_step(int sequences, int rows, double seconds) {
  const CostCurve::Change change = step_.add(rows, seconds, now_);
  for (CostCurve& c : drafting_) c.follow(change);
  plain_.follow(change);
  if (pending_ < 0) return;
  Tried& t = tried(sequences)[static_cast<size_t>(pending_)];
  t.last = now_;
  ++t.times;
}

void DraftRegulator::observe_drafting(int sequences, int passes, int drafts, double seconds) {
  drafting_[static_cast<size_t>(passes)].add(
      passes > 0 ? static_cast<double>(drafts) / passes : sequences, seconds, now_);
}

void DraftRegulator::observe_host(int sequences, double seconds) {
  host_.add(sequences, seconds, now_);
}

void DraftRegulator::observe_plain(int sequences, int most, bool overlapped, double seconds) {
  ++now_;
  if (overlapped) {
    const CostCurve::Change change = plain_.add(sequences, seconds, now_);
    step_.follow(change);
    for (CostCurve& c : drafting_) c.follow(change);
  }
  if (!step_.known() || !drafts(sequences)) {
    worthy_ = 0;
    return;
  }
  note_gain(sequences, speed_of_all(sequences, most, typical_chances()), overlapped);
}

double DraftRegulator::step_seconds(int sequences, int rows) const {
  if (step_.known()) return step_.at(rows);
  return 1 + assumed_.row * (static_cast<double>(rows) / sequences - 1);
}

// A number of passes that was never measured is judged by its neighbours.
double DraftRegulator::drafting_seconds(int sequences, int passes, int drafts) const {
  const double each = passes > 0 ? static_cast<double>(drafts) / passes : sequences;
  auto known = [&](int p) { return step_.known() && drafting_[static_cast<size_t>(p)].known(); };
  auto at = [&](int p) { return drafting_[static_cast<size_t>(p)].at(each); };
  if (known(passes)) return at(passes);
  const double pass = assumed_.pass * step_seconds(sequences, sequences);
  int low = passes, high = passes;
  while (low >= 0 && !known(low)) --low;
  while (high <= kMaxSpeculativeTokens && !known(high)) ++high;
  if (low >= 0 && high <= kMaxSpeculativeTokens)
    return at(low) + (at(high) - at(low)) * (passes - low) / (high - low);
  if (low > 0) return at(low) * passes / low;
  if (low == 0) return at(0) + passes * pass;
  if (high <= kMaxSpeculativeTokens) return at(high) * (passes + 0.5) / (high + 0.5);
  return (passes + 0.5) * pass;
}

double DraftRegulator::seconds_of(int sequences, int passes, int drafts) const {
  return step_seconds(sequences, sequences + drafts) + drafting_seconds(sequences, passes, drafts) +
         host_seconds(sequences);
}

double DraftRegulator::host_seconds(int sequences) const {
  return host_.known() && step_.known() ? host_.at(sequences) : 0;
}

double DraftRegulator::plain_seconds(int sequences, bool overlap) const {
  const double step = step_seconds(sequences, sequences), host = host_seconds(sequences);
  if (!overlap) return step + host;
  return plain_.known_near(sequences) ? plain_.at(sequences) : std::max(step, host);
}

DraftRegulator::PlaceChances DraftRegulator::typical_chances() const {
  PlaceChances chances{};
  double chance = 1;
  for (size_t place = 0; place < chances.size(); ++place)
    chances[place] = chance *= typical_.at(static_cast<int>(place));
  return chances;
}

// By place: the chance of a draft there, of the candidates that may have one. That of a single one
// is half luck, so the others before it count as one more.
DraftRegulator::PlaceChances DraftRegulator::mean_chances() const {
  PlaceChances means = typical_chances();
  for (size_t place = 0; place < means.size(); ++place) {
    int count = 1;
    for (const Chances& x : at_[place]) {
      count += x.count;
      means[place] += x.sum;
    }
    means[place] /= count;
  }
  return means;
}

// The best speed if all sequences had the same number of drafts.
double DraftRegulator::speed_of_all(int sequences, int most, const PlaceChances& chances) const {
  double best = 0, tokens = sequences;
  for (int k = 1; k <= most; ++k) {
    tokens += sequences * chances[static_cast<size_t>(k - 1)];
    best = std::max(best, tokens / seconds_of(sequences, k, k * sequences));
  }
  return best;
}

}  // namespace fathom
