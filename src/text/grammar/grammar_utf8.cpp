#include "text/grammar/grammar_utf8.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "text/utf8.h"

namespace fathom {
namespace {

constexpr CodeRange kSurrogates = {0xD800, 0xDFFF};

// Splits ranges of code points into ranges of bytes. A range is one range a byte if its ends differ
// in the last k bytes only, and these k bytes take all values.
class EdgeMaker {
 public:
  EdgeMaker(Grammar& grammar, int32_t next) : grammar_(grammar), next_(next) {}

  void add(uint32_t low, uint32_t high) {
    for (const uint32_t last_of_length : {0x7Fu, 0x7FFu, 0xFFFFu}) {
      if (low <= last_of_length && last_of_length < high) {
        add(low, last_of_length);
        add(last_of_length + 1, high);
        return;
      }
    }
    const int continuations = low <= 0x7F ? 0 : low <= 0x7FF ? 1 : low <= 0xFFFF ? 2 : 3;
    for (int i = 1; i <= continuations; ++i) {
      const uint32_t mask = (1u << (6 * i)) - 1;
      if ((low & ~mask) == (high & ~mask)) continue;
      if ((low & mask) != 0) {
        add(low, low | mask);
        add((low | mask) + 1, high);
        return;
      }
      if ((high & mask) != mask) {
        add(low, (high & ~mask) - 1);
        add(high & ~mask, high);
        return;
      }
    }
    std::string first, last;
    append_utf8(first, low);
    append_utf8(last, high);
    int32_t next = next_;
    for (size_t i = first.size() - 1; i > 0; --i) next = continuation(first[i], last[i], next);
    edges_.push_back({static_cast<uint8_t>(first[0]), static_cast<uint8_t>(last[0]), next});
  }

  std::vector<Grammar::Edge> take() { return std::move(edges_); }

 private:
  int32_t continuation(char low, char high, int32_t next) {
    const auto [at, is_new] = made_.try_emplace({low, high, next}, 0);
    if (is_new) {
      at->second = grammar_.bytes({{static_cast<uint8_t>(low), static_cast<uint8_t>(high), next}});
    }
    return at->second;
  }

  Grammar& grammar_;
  int32_t next_;
  std::vector<Grammar::Edge> edges_;
  std::map<std::tuple<char, char, int32_t>, int32_t> made_;
};

}  // namespace

CodeSet normalized(CodeSet set) {
  std::sort(set.begin(), set.end(),
            [](const CodeRange& a, const CodeRange& b) { return a.low < b.low; });
  CodeSet merged;
  for (CodeRange r : set) {
    r.high = std::min(r.high, kMaxCode);
    if (r.low > r.high) continue;
    if (!merged.empty() && r.low <= merged.back().high + 1) {
      merged.back().high = std::max(merged.back().high, r.high);
    } else {
      merged.push_back(r);
    }
  }
  CodeSet result;
  for (const CodeRange& r : merged) {
    if (r.low < kSurrogates.low) result.push_back({r.low, std::min(r.high, kSurrogates.low - 1)});
    if (r.high > kSurrogates.high)
      result.push_back({std::max(r.low, kSurrogates.high + 1), r.high});
  }
  return result;
}

CodeSet complement(const CodeSet& set) {
  CodeSet result;
  uint32_t from = 0;
  for (const CodeRange& r : normalized(set)) {
    if (from < r.low) result.push_back({from, r.low - 1});
    from = r.high + 1;
  }
  if (from <= kMaxCode) result.push_back({from, kMaxCode});
  return normalized(result);
}

CodeSet without(const CodeSet& set, const CodeSet& removed) {
  CodeSet either = complement(set);
  either.insert(either.end(), removed.begin(), removed.end());
  return complement(either);
}

std::vector<Grammar::Edge> utf8_edges(Grammar& grammar, const CodeSet& set, int32_t next) {
  EdgeMaker maker(grammar, next);
  for (const CodeRange& r : normalized(set)) maker.add(r.low, r.high);
  return maker.take();
}

}  // namespace fathom
