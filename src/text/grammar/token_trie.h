// A trie of all ordinary tokens of a tokenizer. Its nodes are stored in preorder, so that a walk
// reads memory from front to back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/tokenizer.h"

namespace fathom {

// Immutable; may be read from many threads at once.
class TokenTrie {
 public:
  // Nodes in preorder: the subtree of node i is [i + 1, nodes[i].subtree_end).
  struct Node {
    uint32_t subtree_end = 0;
    uint32_t first_id = 0;  // into ids(); the next node's first_id is one past the last
    uint16_t depth = 0;     // 0: the root, which stands for the empty text
    uint8_t byte = 0;
  };
  static constexpr size_t kMaxTokenBytes = 1024;  // longer ones are left out

  // Leaves out added tokens, which are never part of a text, and the tokens in `without`.
  TokenTrie(const Tokenizer& tokenizer, std::span<const int32_t> without);

  uint32_t size() const { return static_cast<uint32_t>(nodes_.size()) - 1; }
  const Node& node(uint32_t index) const { return nodes_[index]; }
  // Returns the tokens whose bytes end at a node; several if the vocabulary has a text twice.
  std::span<const int32_t> tokens_at(uint32_t index) const {
    return {ids_.data() + nodes_[index].first_id, ids_.data() + nodes_[index + 1].first_id};
  }
  size_t longest_token() const { return longest_; }

 private:
  std::vector<Node> nodes_;  // and one more after the last
  std::vector<int32_t> ids_;
  size_t longest_ = 0;
};

}  // namespace fathom
