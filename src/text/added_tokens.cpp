#include "text/added_tokens.h"

#include <algorithm>

#include "text/utf8.h"

namespace fathom {
namespace {

size_t white_space_before(std::string_view text, size_t end) {
  size_t begin = end;
  while (begin > 0) {
    size_t lead = begin - 1;
    while (lead > 0 && (static_cast<uint8_t>(text[lead]) & 0xC0) == 0x80) --lead;
    if (!is_white_space(utf8_step(text, lead).code)) break;
    begin = lead;
  }
  return begin;
}

size_t white_space_after(std::string_view text, size_t begin) {
  size_t end = begin;
  while (end < text.size()) {
    const Utf8Step step = utf8_step(text, end);
    if (!is_white_space(step.code)) break;
    end += step.length;
  }
  return end;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized)
    : trie_(1) {
  for (const AddedToken& token : tokens) {
    if (token.normalized != normalized) continue;
    begins_[static_cast<uint8_t>(token.content[0])] = true;
    int32_t node = 0;
    for (const char c : token.content) {
      auto& children = trie_[node].children;
      const auto it = std::find_if(children.begin(), children.end(),
                                   [c](const auto& child) { return child.first == c; });
      if (it != children.end()) {
        node = it->second;
        continue;
      }
      const auto fresh = static_cast<int32_t>(trie_.size());
      children.emplace_back(c, fresh);  // before the vector of nodes grows and moves `children`
      trie_.emplace_back();
      node = fresh;
    }
    trie_[node].token = &token;
  }
}

const AddedToken* AddedTokenMatcher::match(std::string_view text, size_t offset) const {
  const AddedToken* longest = nullptr;
  int32_t node = 0;
  for (size_t i = offset; i < text.size(); ++i) {
    const auto& children = trie_[node].children;
    const auto it = std::find_if(children.begin(), children.end(),
                                 [&](const auto& child) { return child.first == text[i]; });
    if (it == children.end()) break;
    node = it->second;
    if (trie_[node].token) longest = trie_[node].token;
  }
  return longest;
}

void AddedTokenMatcher::split(std::string_view text, const Part& part) const {
  size_t done = 0;    // everything before has been handed out
  size_t search = 0;  // may lie before `done`: white space taken by rstrip can begin a token
  while (search < text.size()) {
    if (!begins_[static_cast<uint8_t>(text[search])]) {
      ++search;
      continue;
    }
    const AddedToken* token = match(text, search);
    if (!token) {
      ++search;
      continue;
    }
    size_t begin = search, end = search + token->content.size();
    search = end;
    if (token->lstrip) begin = std::max(white_space_before(text, begin), done);
    if (token->rstrip) end = white_space_after(text, end);
    if (done < begin) part(nullptr, text.substr(done, begin - done));
    part(token, text.substr(begin, end - begin));
    done = end;
  }
  if (done < text.size()) part(nullptr, text.substr(done));
}

}  // namespace fathom
