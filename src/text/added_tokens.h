// Finds added tokens in a text: the leftmost first, and of several at one place the longest.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer_file.h"

namespace fathom {

class AddedTokenMatcher {
 public:
  // `tokens` must outlive the matcher, which looks only for those whose `normalized` is as given.
  AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized);

  // A part of the text: an added token (with the white space that its flags take), or the text
  // between two added tokens (`token` is null).
  using Part = std::function<void(const AddedToken* token, std::string_view text)>;

  void split(std::string_view text, const Part& part) const;

 private:
  struct Node {
    std::vector<std::pair<char, int32_t>> children;
    const AddedToken* token = nullptr;
  };
  // The longest token that begins at `offset`, or null.
  const AddedToken* match(std::string_view text, size_t offset) const;

  std::vector<Node> trie_;
  bool begins_[256] = {};
};

}  // namespace fathom
