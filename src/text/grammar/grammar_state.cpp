#include "text/grammar/grammar_state.h"

#include <utility>

namespace fathom {
namespace {

uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15ull;
  return x ^ (x >> 29);
}

uint32_t one_less(uint32_t count) {
  return count == 0 || count == Grammar::kUnbounded ? count : count - 1;
}

}  // namespace

size_t StackPool::Hash::operator()(const Entry& e) const {
  const uint64_t counts = uint64_t{e.frame.min_left} << 32 | e.frame.max_left;
  return mix(mix(uint64_t{static_cast<uint32_t>(e.below)} << 32 |
                 static_cast<uint32_t>(e.frame.node) << 1 | (e.frame.repeats ? 1 : 0)) +
             counts);
}

int32_t StackPool::push(int32_t below, const Frame& frame) {
  const Entry entry = {frame, below, depth(below) + 1};
  const auto [at, is_new] = ids_.try_emplace(entry, static_cast<int32_t>(entries_.size()));
  if (is_new) entries_.push_back(entry);
  return at->second;
}

void StackPool::clear() {
  entries_.assign(1, {});
  ids_.clear();
}

bool Follower::first_time(const Place& place) {
  if (seen_.size() < 2 * (seen_count_ + 1)) {
    // The table grows before it is half full; entries of this round are copied.
    const auto old = std::exchange(seen_, {});
    seen_.resize(old.empty() ? 64 : 2 * old.size());
    for (const auto& [key, round] : old) {
      if (round != round_) continue;
      size_t at = mix(key) & (seen_.size() - 1);
      while (seen_[at].second == round_) at = (at + 1) & (seen_.size() - 1);
      seen_[at] = {key, round};
    }
  }
  const uint64_t key =
      uint64_t{static_cast<uint32_t>(place.node)} << 32 | static_cast<uint32_t>(place.stack);
  size_t at = mix(key) & (seen_.size() - 1);
  for (; seen_[at].second == round_; at = (at + 1) & (seen_.size() - 1)) {
    if (seen_[at].first == key) return false;
  }
  seen_[at] = {key, round_};
  ++seen_count_;
  return true;
}

void Follower::follow(std::span<const Place> from, int max_depth, Reach& out) {
  out.bytes.clear();
  out.markers.clear();
  out.ends = false;
  seen_count_ = 0;
  if (++round_ == 0) {  // all marks of 2^32 rounds ago would look new
    seen_.assign(seen_.size(), {});
    round_ = 1;
  }
  // From the back, so that places are followed in the order they are given in.
  open_.assign(from.rbegin(), from.rend());
  while (!open_.empty()) {
    const Place place = open_.back();
    open_.pop_back();
    visit(place, max_depth, out);
  }
}

void Follower::visit(const Place& place, int max_depth, Reach& out) {
  const int need = grammar_.need(place.node);
  if (need == Grammar::kNever || stacks_.depth(place.stack) + need > max_depth) return;
  if (!first_time(place)) return;
  const Grammar::Node& n = grammar_.node(place.node);
  switch (n.kind) {
    case Grammar::Kind::bytes:
      if (out.bytes.size() < kMaxPlaces) out.bytes.push_back(place);
      return;
    case Grammar::Kind::marker:
      if (out.markers.size() < kMaxPlaces) out.markers.push_back(place);
      return;
    case Grammar::Kind::split:
      for (const int32_t* t = grammar_.targets_end(n); t != grammar_.targets_begin(n);)
        open_.push_back({*--t, place.stack});
      return;
    case Grammar::Kind::call:
      open_.push_back({grammar_.start(n.a), stacks_.push(place.stack, {n.b, false, 0, 0})});
      return;
    case Grammar::Kind::repeat:
      open(place.node, near(n.min), near(n.max), place.stack);
      return;
    case Grammar::Kind::end: {
      if (place.stack == 0) {
        out.ends = true;
        return;
      }
      const Frame frame = stacks_.top(place.stack);
      const int32_t below = stacks_.below(place.stack);
      if (frame.repeats) {
        open(frame.node, frame.min_left, frame.max_left, below);
      } else {
        open_.push_back({frame.node, below});
      }
      return;
    }
  }
}

// A repetition that must come `min_left` and may come `max_left` times more.
void Follower::open(int32_t node, uint32_t min_left, uint32_t max_left, int32_t stack) {
  const Grammar::Node& n = grammar_.node(node);
  if (min_left == 0) open_.push_back({n.b, stack});
  if (max_left > 0) {
    const Frame frame = {node, true, one_less(min_left), one_less(max_left)};
    open_.push_back({grammar_.start(n.a), stacks_.push(stack, frame)});
  }
}

void Follower::targets(const Reach& from, uint8_t byte, std::vector<Place>& out) const {
  out.clear();
  for (const Place& place : from.bytes) {
    const Grammar::Node& n = grammar_.node(place.node);
    for (const Grammar::Edge* e = grammar_.edges_begin(n); e != grammar_.edges_end(n); ++e) {
      if (e->low <= byte && byte <= e->high) out.push_back({e->target, place.stack});
    }
  }
}

}  // namespace fathom
