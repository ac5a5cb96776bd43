// Cuts text into the pieces that BPE works on: a sequence of "isolated" regex splits, each applied
// within every piece of the one before, as Hugging Face's tokenizers do it. Each match becomes a
// piece, and so does each stretch between matches. A piece is matched as a text of its own:
// look-around never sees beyond its ends.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

struct SplitPattern {
  std::string pattern;
  bool is_regex = true;  // else the pattern is literal text
};

class PreTokenizer {
 public:
  // Memory that one call of split() needs. Reused between calls, never used by two at once.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(Scratch&&) noexcept;
    Scratch& operator=(Scratch&&) noexcept;

   private:
    friend class PreTokenizer;
    struct State;
    std::unique_ptr<State> state_;
  };

  using Piece = std::function<void(size_t begin, size_t end)>;

  // Throws Error, whose message begins with `where`, if a pattern does not compile; it names the
  // pattern and the place in it.
  PreTokenizer(const std::vector<SplitPattern>& patterns, std::string_view where);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  // Calls `piece` for consecutive, non-empty ranges that cover the text, which is valid UTF-8.
  void split(std::string_view text, Scratch& scratch, const Piece& piece) const;

 private:
  class Regex;
  void split_level(size_t level, std::string_view subject, size_t begin, size_t end,
                   Scratch::State& state, const Piece& piece) const;

  std::vector<Regex> regexes_;
};

}  // namespace fathom
