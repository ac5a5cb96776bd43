// Characters in a grammar: sets of code points, and the bytes that UTF-8 writes them as.
#pragma once

#include <cstdint>
#include <vector>

#include "text/grammar/grammar.h"

namespace fathom {

struct CodeRange {
  uint32_t low = 0, high = 0;  // both included
};
using CodeSet = std::vector<CodeRange>;

inline constexpr uint32_t kMaxCode = 0x10FFFF;

// Returns the set sorted, without overlaps, and without surrogates, which no text can contain.
CodeSet normalized(CodeSet set);
CodeSet complement(const CodeSet& set);
CodeSet without(const CodeSet& set, const CodeSet& removed);

// Edges for the first bytes of the characters of `set`; the last byte of each leads to `next`.
std::vector<Grammar::Edge> utf8_edges(Grammar& grammar, const CodeSet& set, int32_t next);

}  // namespace fathom
