// The state of an answer in its grammar: a set of places, each a node and a stack of open calls.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "text/grammar/grammar.h"

namespace fathom {

// One open call: `node` is where the grammar continues after it. If it `repeats`, `node` is the
// repeat node, and the counts say how often the rule must and may still come.
struct Frame {
  int32_t node = Grammar::kEnd;
  bool repeats = false;
  uint32_t min_left = 0, max_left = 0;

  bool operator==(const Frame&) const = default;
};

// Stacks of frames. They share their lower parts; equal stacks have equal ids; 0 is the empty
// stack. Thread-compatible.
class StackPool {
 public:
  StackPool() { clear(); }

  int32_t push(int32_t below, const Frame& frame);
  const Frame& top(int32_t stack) const { return entries_[stack].frame; }
  int32_t below(int32_t stack) const { return entries_[stack].below; }
  int depth(int32_t stack) const { return entries_[stack].depth; }
  size_t size() const { return entries_.size(); }
  void clear();

 private:
  struct Entry {
    Frame frame;
    int32_t below = 0;
    int depth = 0;
    bool operator==(const Entry&) const = default;
  };
  struct Hash {
    size_t operator()(const Entry& e) const;
  };
  std::vector<Entry> entries_;
  std::unordered_map<Entry, int32_t, Hash> ids_;
};

// A place in the grammar.
struct Place {
  int32_t node = Grammar::kEnd;
  int32_t stack = 0;

  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes <=> for a comparison with 0.
  auto operator<=>(const Place&) const = default;
};

// A set of places, followed up to nodes that read a byte or a marker, or to the end.
struct Reach {
  std::vector<Place> bytes;    // at nodes of kind bytes, each place once
  std::vector<Place> markers;  // at nodes of kind marker
  bool ends = false;           // the end was reached with an empty stack

  bool dead() const { return bytes.empty() && markers.empty() && !ends; }
};

// Follows what reads no byte: splits, calls and returns. Leaves out places from which the end
// cannot be reached within the depth limit, so every place that is kept can be completed.
// Thread-compatible.
class Follower {
 public:
  // The most places of one set; of more, the first are kept. Only grammars in which one text can be
  // read in very many ways reach this. What they then still allow is valid.
  static constexpr size_t kMaxPlaces = 2048;

  // Repetition counts of `far` or more are treated as unbounded (see GrammarMachine). kUnbounded:
  // all counts are exact.
  Follower(const Grammar& grammar, StackPool& stacks, uint32_t far)
      : grammar_(grammar), stacks_(stacks), far_(far) {}

  void follow(std::span<const Place> from, int max_depth, Reach& out);
  // The places after one more byte, not followed yet.
  void targets(const Reach& from, uint8_t byte, std::vector<Place>& out) const;

  uint32_t near(uint32_t count) const { return count >= far_ ? Grammar::kUnbounded : count; }

 private:
  void visit(const Place& place, int max_depth, Reach& out);
  void open(int32_t node, uint32_t min_left, uint32_t max_left, int32_t stack);
  bool first_time(const Place& place);

  const Grammar& grammar_;
  StackPool& stacks_;
  uint32_t far_;
  std::vector<Place> open_;
  // An open-addressing set that is emptied by counting up `round_`.
  std::vector<std::pair<uint64_t, uint32_t>> seen_;
  size_t seen_count_ = 0;
  uint32_t round_ = 0;
};

}  // namespace fathom
