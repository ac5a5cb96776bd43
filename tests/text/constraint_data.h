// Forms, and walks over the tokens they allow.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/grammar/constraint.h"
#include "text_data.h"

namespace fathom::test {

inline constexpr int32_t kStop = 1;

inline AnswerForm schema_form(const std::string& schema) {
  AnswerForm form;
  form.kind = AnswerForm::Kind::json_schema;
  form.schema = OrderedJson::parse(schema);
  return form;
}

inline std::shared_ptr<const CompiledForm> compiled(ConstraintFactory& factory,
                                                    const AnswerForm& form) {
  auto result = factory.compile(form);
  if (!result.ok()) throw std::runtime_error(result.failure().message);
  return result.value();
}

inline bool bit(const std::vector<uint64_t>& mask, int32_t token) {
  const auto word = static_cast<size_t>(token) / 64;
  return word < mask.size() && mask[word] >> (token % 64) & 1;
}

inline std::vector<int32_t> tokens_of(const std::vector<uint64_t>& mask) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < mask.size() * 64; ++i)
    if (bit(mask, static_cast<int32_t>(i))) tokens.push_back(static_cast<int32_t>(i));
  return tokens;
}

// Draws from what a matcher allows. Uniformly at first; then what closes what is open, so that the
// walk ends.
class Walker {
 public:
  Walker(const Tokenizer& tokenizer, uint64_t seed) : tokenizer_(tokenizer), random_(seed) {}

  // A token of the mask; kStop only if there is nothing else, or with some chance.
  int32_t draw(const std::vector<uint64_t>& mask, bool close) {
    std::vector<int32_t> tokens = tokens_of(mask);
    if (tokens.empty()) return -1;
    if (bit(mask, kStop) && (close || tokens.size() == 1 || random_() % 4 == 0)) return kStop;
    if (close || random_() % 4 == 0) {
      std::vector<int32_t> markers;
      for (const int32_t t : tokens)
        if (tokenizer_.is_added(t) && t != kStop) markers.push_back(t);
      if (!markers.empty() && random_() % 8 != 0) return markers[random_() % markers.size()];
      std::vector<int32_t> ends;
      for (const char* end : {"｜", "\"", "]", "}", "</", "<", "/", "0", "1"}) {
        const int32_t token = ordinary(end);
        if (token >= 0 && bit(mask, token)) ends.push_back(token);
      }
      if (!ends.empty() && random_() % 8 != 0) return ends[random_() % ends.size()];
      std::vector<int32_t> simple;
      for (const int32_t t : tokens)
        if (tokenizer_.token_bytes(t).size() == 1) simple.push_back(t);
      if (!simple.empty()) tokens = std::move(simple);
    }
    return tokens[random_() % tokens.size()];
  }

  // Goes on to the end. Nothing if that is not reached within a bounded number of tokens.
  std::optional<std::string> finish(TokenMatcher& matcher, int free_tokens) {
    std::vector<uint64_t> mask;
    std::string text;
    for (int i = 0; i < free_tokens + 2000; ++i) {
      matcher.allowed(mask);
      const int32_t token = draw(mask, i >= free_tokens);
      EXPECT_GE(token, 0) << "nothing is allowed behind " << text;
      if (token < 0) return std::nullopt;
      EXPECT_EQ(bit(mask, kStop), matcher.complete());
      EXPECT_TRUE(matcher.accept(token))
          << "allowed, but not accepted: " << token << " behind " << text;
      if (token == kStop) return text;
      text += tokenizer_.token_bytes(token);
    }
    return std::nullopt;
  }

  std::mt19937_64& random() { return random_; }

 private:
  // The token of a text that is one token; -1 if it is none.
  int32_t ordinary(std::string_view text) const {
    const std::vector<int32_t> ids = tokenizer_.encode_plain(text);
    return ids.size() == 1 ? ids[0] : -1;
  }

  const Tokenizer& tokenizer_;
  std::mt19937_64 random_;
};

// Cuts a text into tokens at random places.
class RandomCut {
 public:
  explicit RandomCut(const Tokenizer& tokenizer) {
    for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      if (tokenizer.is_added(id) || tokenizer.token_bytes(id).empty()) continue;
      ids_.emplace(tokenizer.token_bytes(id), id);
      longest_ = std::max(longest_, tokenizer.token_bytes(id).size());
    }
  }

  std::vector<int32_t> cut(std::string_view text, std::mt19937_64& random) const {
    std::vector<int32_t> tokens;
    for (size_t at = 0; at < text.size();) {
      std::vector<std::pair<size_t, int32_t>> fit;
      for (size_t n = 1; n <= std::min(longest_, text.size() - at); ++n) {
        const auto found = ids_.find(std::string(text.substr(at, n)));
        if (found != ids_.end()) fit.emplace_back(n, found->second);
      }
      if (fit.empty()) throw std::runtime_error("no token for a byte");
      const auto& [n, id] = fit[random() % fit.size()];
      tokens.push_back(id);
      at += n;
    }
    return tokens;
  }

 private:
  std::unordered_map<std::string, int32_t> ids_;
  size_t longest_ = 0;
};

// Whether the matcher accepts the tokens, one after the other, and the end behind them.
inline bool accepts(TokenMatcher& matcher, const std::vector<int32_t>& tokens) {
  for (const int32_t token : tokens)
    if (!matcher.accept(token)) return false;
  return matcher.complete();
}

}  // namespace fathom::test
