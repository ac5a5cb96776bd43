#include "text/grammar/token_trie.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace fathom {

TokenTrie::TokenTrie(const Tokenizer& tokenizer, std::span<const int32_t> without) {
  std::vector<std::pair<std::string_view, int32_t>> tokens;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    if (bytes.empty() || bytes.size() > kMaxTokenBytes || tokenizer.is_added(id)) continue;
    if (std::find(without.begin(), without.end(), id) != without.end()) continue;
    tokens.emplace_back(bytes, id);
    longest_ = std::max(longest_, bytes.size());
  }
  // Sorted by their bytes, tokens are in the order of the trie's preorder walk.
  std::sort(tokens.begin(), tokens.end());

  nodes_.push_back({});
  std::vector<uint32_t> path = {0};  // the nodes above the next token
  const auto close_below = [&](size_t depth) {
    while (path.size() > depth + 1) {
      nodes_[path.back()].subtree_end = static_cast<uint32_t>(nodes_.size());
      path.pop_back();
    }
  };
  std::string_view previous;
  for (const auto& [bytes, id] : tokens) {
    const auto differs =
        std::mismatch(previous.begin(), previous.end(), bytes.begin(), bytes.end()).second;
    const auto common = static_cast<size_t>(differs - bytes.begin());
    close_below(common);
    for (size_t i = common; i < bytes.size(); ++i) {
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({0, static_cast<uint32_t>(ids_.size()), static_cast<uint16_t>(i + 1),
                        static_cast<uint8_t>(bytes[i])});
    }
    ids_.push_back(id);
    previous = bytes;
  }
  close_below(0);
  nodes_[0].subtree_end = static_cast<uint32_t>(nodes_.size());
  nodes_.push_back({0, static_cast<uint32_t>(ids_.size()), 0, 0});
}

}  // namespace fathom
