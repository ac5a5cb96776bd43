// GrammarMachine: computes which tokens may come next at a place in a grammar.
//
// Trying all tokens at every step of every answer would be slow, so most of the work is done once
// per node and kept. For a walk over the token trie that starts at a node it is: which tokens fit,
// and at which trie nodes the walk leaves the rule (or the repetition) around the node. What may
// follow there depends on the open calls, so those parts of the trie are walked for each answer.
// For example, the inside of a string is left only by tokens with a quotation mark: a few hundred
// of the real vocabulary's 128,000.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/grammar/grammar.h"
#include "text/grammar/grammar_state.h"
#include "text/grammar/token_trie.h"

namespace fathom {

// Tokens as bits: token i is bit i % 64 of word i / 64.
using TokenMask = std::vector<uint64_t>;

inline void set_bit(TokenMask& mask, int32_t token) {
  mask[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
}
inline bool has_bit(const TokenMask& mask, int32_t token) {
  const auto word = static_cast<size_t>(token) / 64;
  return token >= 0 && word < mask.size() && mask[word] >> (token % 64) & 1;
}

// Thread-compatible: asking for a mask fills the caches.
class GrammarMachine {
 public:
  // How many calls may be open at once beyond those that the form itself needs. It bounds how deep
  // an answer may nest where its form does not say (json_object, recursive schemas).
  static constexpr int kFreeDepth = 128;

  class Shared;

  // `grammar` (sealed), `trie` and `shared` must outlive the machine; `words`: of a mask. `shared`,
  // if given, has the results for the first nodes of `grammar`.
  GrammarMachine(const Grammar& grammar, const TokenTrie& trie, size_t words,
                 Shared* shared = nullptr);

  struct Next {
    TokenMask tokens;       // that may come, markers included
    bool complete = false;  // the text may end here
  };
  // `places`: where an answer stands, with stacks of `stacks`. At least one token is allowed or the
  // text is complete, if the vocabulary has an ordinary token for every single byte.
  std::shared_ptr<const Next> next(std::span<const Place> places, const StackPool& stacks);

  int max_depth() const { return max_depth_; }

 private:
  // Where a walk starts: a node, and the frame around it if that is a repetition. (Between two
  // visits of a node mostly its counts differ, and they rarely matter.)
  struct Start {
    int32_t node = Grammar::kEnd;
    Frame around;  // repeats == false: none
    int room = 0;  // calls that may still be opened; capped where more cannot matter
    bool operator==(const Start&) const = default;
  };
  struct StartHash {
    size_t operator()(const Start& s) const;
  };
  // What a walk from a start found.
  struct Found {
    TokenMask tokens;              // either as bits
    std::vector<int32_t> few;      // or as a list, where that is shorter
    std::vector<uint32_t> leaves;  // trie nodes at which the frame is left; 0: before any byte
  };
  struct State {
    Reach reach;
    int room = 0;
  };
  // Flags of a state, which walks read.
  static constexpr uint8_t kEnds = 1, kGoesOn = 2;
  static constexpr int32_t kDead = -1, kUnknown = -2;

  std::vector<Frame> frames_of(int32_t stack, const StackPool& stacks) const;
  Start start_at(int32_t node, std::vector<Frame>& frames) const;
  std::shared_ptr<const Found> found_from(const Start& start);
  std::shared_ptr<const Found> find_from(const Start& start);
  int32_t state_of(const Start& start);
  int32_t add_state(Reach reach, int room);
  int32_t step(int32_t state, uint8_t byte);
  void walk(uint32_t from, int32_t state, std::vector<int32_t>& tokens,
            std::vector<uint32_t>& leaves);
  void add_place(const Place& place, const StackPool& stacks, Next& next);
  void make_room();
  std::string key_of(std::span<const Place> places, const StackPool& stacks) const;

  const Grammar& grammar_;
  const TokenTrie& trie_;
  size_t words_;
  Shared* shared_;
  int max_depth_, near_depth_;
  StackPool stacks_;  // of states; 0 stands for the stack below the start
  Follower follower_;
  std::vector<State> states_;
  std::vector<uint8_t> flags_;
  std::vector<int32_t> steps_;  // state * 256 + byte: the state after it, kDead or kUnknown
  std::unordered_map<std::string, int32_t> state_ids_;
  size_t places_ = 0;  // in states_
  std::unordered_map<Start, std::shared_ptr<const Found>, StartHash> found_;
  size_t found_words_ = 0;  // 8-byte words in found_
  std::unordered_map<std::string, std::shared_ptr<const Next>> masks_;
  size_t work_ = 0;  // for the current mask
  std::vector<int32_t> path_;
  std::vector<Place> targets_;
};

// A machine for the nodes that many grammars begin with (the rules of JSON), so that their results
// are computed once for all grammars. Every method may be called from many threads at once.
class GrammarMachine::Shared {
 public:
  // `grammar` (sealed) and `trie` must outlive this. Grammars that use it must begin with the nodes
  // of `grammar`.
  Shared(const Grammar& grammar, const TokenTrie& trie, size_t words)
      : nodes_(grammar.size()), machine_(grammar, trie, words) {}

 private:
  friend class GrammarMachine;
  bool knows(const Start& start) const { return start.node < nodes_ && !start.around.repeats; }
  std::shared_ptr<const Found> found_from(Start start);

  int32_t nodes_;
  std::mutex mutex_;  // guards machine_
  GrammarMachine machine_;
};

}  // namespace fathom
