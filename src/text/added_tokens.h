// Finds added tokens in a text, leftmost first, longest of those that begin at one place.
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
  // `tokens` must outlive the matcher; `normalized` picks which of them it looks for.
  AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized);

  // A stretch of the text: an added token (with the white space its flags take), or what lies
  // between two of them (token is null).
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
