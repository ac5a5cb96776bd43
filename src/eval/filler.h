// Sentences to plant facts in: English prose that says nothing, the same for a seed everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::eval {

// Numbers that follow from a seed; splitmix64 (Steele, Lea, Flood 2014).
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed) {}
  uint64_t next();
  // Below `n`, which is far below 2^32: the unevenness of a remainder does not matter here.
  size_t below(size_t n) { return static_cast<size_t>(next() % n); }

 private:
  uint64_t state_;
};

std::string filler_sentence(Numbers& numbers);

// A fact that no text has, and the question for it.
struct Fact {
  std::string sentence, question, number;
};
Fact new_fact(Numbers& numbers);

// A text's sentences, each with the white space behind it left out. Line ends become blanks.
std::vector<std::string> sentences_of(const std::string& text);

}  // namespace fathom::eval
