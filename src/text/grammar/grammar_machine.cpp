#include "text/grammar/grammar_machine.h"

#include <algorithm>
#include <utility>

namespace fathom {
namespace {

// How many calls opened inside one token are followed. A token with more brackets in a row is not
// allowed; the same text can be written with shorter tokens.
constexpr int kDepthInToken = 64;
// Memory of the caches: states of about a kilobyte, their places, masks of finished states.
constexpr size_t kMaxStates = 8'192, kMaxPlacesKept = 1'000'000, kMaxMasks = 64;
constexpr size_t kMaxFoundWords = size_t{1} << 20;
// The work for one mask, in visited trie nodes and followed places: about fifteen walks over the
// whole of the real vocabulary. Beyond it only tokens of one byte are considered. So the cost of a
// grammar made to be slow is bounded, and its answers still conform.
constexpr size_t kMaxWork = 4'000'000;

template <class T>
void append_raw(std::string& key, const T& value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_places(std::string& key, const std::vector<Place>& places) {
  for (const Place& p : places) append_raw(key, p);
}

}  // namespace

size_t GrammarMachine::StartHash::operator()(const Start& s) const {
  size_t hash = 0;
  for (const uint64_t part :
       {uint64_t(s.node), uint64_t(s.around.node + 1), uint64_t{s.around.min_left},
        uint64_t{s.around.max_left}, uint64_t(s.room)}) {
    hash = (hash ^ part) * 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 31;
  }
  return hash;
}

GrammarMachine::GrammarMachine(const Grammar& grammar, const TokenTrie& trie, size_t words,
                               Shared* shared)
    : grammar_(grammar),
      trie_(trie),
      words_(words),
      shared_(shared),
      max_depth_(grammar.max_need() + kFreeDepth),
      near_depth_(grammar.max_need() + kDepthInToken),
      follower_(grammar, stacks_, static_cast<uint32_t>(trie.longest_token()) + 1) {}

std::vector<Frame> GrammarMachine::frames_of(int32_t stack, const StackPool& stacks) const {
  std::vector<Frame> frames;
  for (; stack != 0; stack = stacks.below(stack)) frames.push_back(stacks.top(stack));
  std::reverse(frames.begin(), frames.end());
  return frames;
}

// A start at `node` inside of `frames`. If the innermost frame is a repetition it moves from
// `frames` into the start.
GrammarMachine::Start GrammarMachine::start_at(int32_t node, std::vector<Frame>& frames) const {
  Start start;
  start.node = node;
  if (!frames.empty() && frames.back().repeats) {
    start.around = frames.back();
    start.around.min_left = follower_.near(start.around.min_left);
    start.around.max_left = follower_.near(start.around.max_left);
    frames.pop_back();
  }
  start.room = std::min(max_depth_ - static_cast<int>(frames.size()), near_depth_);
  return start;
}

int32_t GrammarMachine::state_of(const Start& start) {
  const int32_t stack = start.around.repeats ? stacks_.push(0, start.around) : 0;
  const Place place = {start.node, stack};
  Reach reach;
  follower_.follow({&place, 1}, start.room, reach);
  return add_state(std::move(reach), start.room);
}

int32_t GrammarMachine::add_state(Reach reach, int room) {
  if (reach.dead()) return kDead;
  std::sort(reach.bytes.begin(), reach.bytes.end());
  std::sort(reach.markers.begin(), reach.markers.end());
  std::string key;
  append_raw(key, room);
  append_raw(key, reach.ends);
  append_raw(key, reach.bytes.size());
  append_places(key, reach.bytes);
  append_places(key, reach.markers);
  const auto [at, is_new] = state_ids_.try_emplace(key, static_cast<int32_t>(states_.size()));
  if (!is_new) return at->second;
  const size_t row = steps_.size();
  steps_.resize(row + 256, kDead);
  for (const Place& p : reach.bytes) {
    const Grammar::Node& n = grammar_.node(p.node);
    for (const Grammar::Edge* e = grammar_.edges_begin(n); e != grammar_.edges_end(n); ++e)
      std::fill(steps_.begin() + row + e->low, steps_.begin() + row + e->high + 1, kUnknown);
  }
  places_ += reach.bytes.size() + reach.markers.size();
  flags_.push_back((reach.ends ? kEnds : 0) | (reach.bytes.empty() ? 0 : kGoesOn));
  states_.push_back({std::move(reach), room});
  return at->second;
}

int32_t GrammarMachine::step(int32_t state, uint8_t byte) {
  const size_t at = static_cast<size_t>(state) * 256 + byte;
  if (steps_[at] != kUnknown) return steps_[at];
  work_ += 8 + states_[state].reach.bytes.size();
  Reach reach;
  follower_.targets(states_[state].reach, byte, targets_);
  follower_.follow(targets_, states_[state].room, reach);
  const int32_t next = add_state(std::move(reach), states_[state].room);
  steps_[at] = next;  // add_state may have moved the table
  return next;
}

// Tokens whose bytes lead from `state`, at trie node `from`, to a living state, and the trie nodes
// below `from` at which the bottom of the stack is left.
void GrammarMachine::walk(uint32_t from, int32_t state, std::vector<int32_t>& tokens,
                          std::vector<uint32_t>& leaves) {
  if (state == kDead) return;
  const size_t base = trie_.node(from).depth;
  path_.resize(trie_.longest_token() + 1);
  path_[base] = state;
  const uint32_t end = trie_.node(from).subtree_end;
  for (uint32_t i = from + 1; i < end;) {
    const TokenTrie::Node& node = trie_.node(i);
    ++work_;
    const int32_t here = step(path_[node.depth - 1], node.byte);
    if (here == kDead) {
      i = node.subtree_end;
      continue;
    }
    path_[node.depth] = here;
    const auto ids = trie_.tokens_at(i);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    if (flags_[here] & kEnds) leaves.push_back(i);
    const bool deeper = (flags_[here] & kGoesOn) && (work_ < kMaxWork || node.depth < 1);
    i = deeper ? i + 1 : node.subtree_end;
  }
}

std::shared_ptr<const GrammarMachine::Found> GrammarMachine::Shared::found_from(Start start) {
  const std::lock_guard lock(mutex_);
  start.room = std::min(start.room, machine_.near_depth_);
  machine_.make_room();
  machine_.work_ = 0;
  return machine_.found_from(start);
}

std::shared_ptr<const GrammarMachine::Found> GrammarMachine::found_from(const Start& start) {
  if (shared_ && shared_->knows(start)) return shared_->found_from(start);
  const auto [at, is_new] = found_.try_emplace(start);
  if (is_new) at->second = find_from(start);
  return at->second;
}

std::shared_ptr<const GrammarMachine::Found> GrammarMachine::find_from(const Start& start) {
  auto found = std::make_shared<Found>();
  const int32_t state = state_of(start);
  if (state != kDead) {
    if (states_[state].reach.ends) found->leaves.push_back(0);
    for (const Place& p : states_[state].reach.markers)
      found->few.push_back(grammar_.node(p.node).a);
    walk(0, state, found->few, found->leaves);
  }
  if (found->few.size() > 2 * words_) {
    found->tokens.assign(words_, 0);
    for (const int32_t token : found->few) set_bit(found->tokens, token);
    found->few = {};
  }
  found->few.shrink_to_fit();
  found_words_ += 16 + found->tokens.size() + (found->few.size() + found->leaves.size()) / 2;
  return found;
}

// Adds the tokens that may follow one place: those found for its node and, where a token closes the
// innermost frame and goes on, those found for what follows that frame.
void GrammarMachine::add_place(const Place& place, const StackPool& stacks, Next& next) {
  std::vector<Frame> frames = frames_of(place.stack, stacks);
  std::vector<int32_t> tokens;
  const auto add_found = [&](const Found& found) {
    for (size_t i = 0; i < found.tokens.size(); ++i) next.tokens[i] |= found.tokens[i];
    for (const int32_t token : found.few) set_bit(next.tokens, token);
  };
  const auto inside = found_from(start_at(place.node, frames));
  add_found(*inside);
  std::vector<uint32_t> leaves = inside->leaves, further;
  while (!leaves.empty() && !frames.empty()) {
    int32_t node = Grammar::kEnd;  // inside of a repetition: where one round has ended
    if (!frames.back().repeats) {
      node = frames.back().node;
      frames.pop_back();
    }
    const Start start = start_at(node, frames);
    const int32_t state = state_of(start);
    if (state == kDead) {
      leaves.clear();
      break;
    }
    const bool ends = states_[state].reach.ends;
    further.clear();
    for (const uint32_t leaf : leaves) {
      if (ends) further.push_back(leaf);
      if (leaf == 0) {
        const auto found = found_from(start);
        add_found(*found);
        further.insert(further.end(), found->leaves.begin(), found->leaves.end());
      } else {
        walk(leaf, state, tokens, further);
      }
    }
    std::sort(further.begin(), further.end());
    further.erase(std::unique(further.begin(), further.end()), further.end());
    std::swap(leaves, further);
  }
  for (const int32_t token : tokens) set_bit(next.tokens, token);
  if (frames.empty() && !leaves.empty() && leaves[0] == 0) next.complete = true;
}

std::string GrammarMachine::key_of(std::span<const Place> places, const StackPool& stacks) const {
  std::string key;
  for (const Place& place : places) {
    append_raw(key, place.node);
    append_raw(key, stacks.depth(place.stack));
    for (int32_t stack = place.stack; stack != 0; stack = stacks.below(stack)) {
      const Frame& frame = stacks.top(stack);
      append_raw(key, frame.node);
      append_raw(key, frame.repeats);
      append_raw(key, follower_.near(frame.min_left));
      append_raw(key, follower_.near(frame.max_left));
    }
  }
  return key;
}

// Caches that have grown too large are emptied whole: what is in use comes back at once.
void GrammarMachine::make_room() {
  if (states_.size() > kMaxStates || places_ > kMaxPlacesKept) {
    states_.clear();
    flags_.clear();
    steps_.clear();
    state_ids_.clear();
    stacks_.clear();
    places_ = 0;
  }
  if (found_words_ > kMaxFoundWords) {
    found_.clear();
    found_words_ = 0;
  }
  if (masks_.size() >= kMaxMasks) masks_.clear();
}

std::shared_ptr<const GrammarMachine::Next> GrammarMachine::next(std::span<const Place> places,
                                                                 const StackPool& stacks) {
  const std::string key = key_of(places, stacks);
  if (const auto at = masks_.find(key); at != masks_.end()) return at->second;
  make_room();
  work_ = 0;
  auto next = std::make_shared<Next>();
  next->tokens.assign(words_, 0);
  for (const Place& place : places) add_place(place, stacks, *next);
  masks_.emplace(key, next);
  return next;
}

}  // namespace fathom
