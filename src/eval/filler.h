// Filler sentences in which facts are hidden: English prose without content, the same on every
// machine for a seed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::eval {

// Pseudo-random numbers from a seed; splitmix64 (Steele, Lea, Flood 2014).
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed) {}
  uint64_t next();
  // Returns a number below `n`. `n` is far below 2^32, so the bias of a remainder does not matter.
  size_t below(size_t n) { return static_cast<size_t>(next() % n); }

 private:
  uint64_t state_;
};

std::string filler_sentence(Numbers& numbers);

// An invented fact, and the question for it.
struct Fact {
  std::string sentence, question, number;
};
Fact new_fact(Numbers& numbers);

// Returns a text's sentences, without the white space after each. Line ends become blanks.
std::vector<std::string> sentences_of(const std::string& text);

}  // namespace fathom::eval
