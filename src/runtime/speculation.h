// Speculation: the MTP block drafts the next tokens of a sequence, and one step of the
// model verifies them. How it works and what it costs: docs/speculation.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fathom {

// The most drafts of one sequence that a step may verify. The block is trained for the first one.
// For the others it starts from its own state, and they are right less often.
inline constexpr int kMaxSpeculativeTokens = 4;

// Counts of drafts since the start.
struct SpeculationStats {
  int64_t drafts = 0;        // sequences with drafts, counted in every step
  int64_t draft_tokens = 0;  // drafts that were verified
  int64_t accepted_tokens = 0;
  std::array<int64_t, kMaxSpeculativeTokens> accepted_at{};  // of the first drafts, the second, ...

  SpeculationStats& operator+=(const SpeculationStats& o) {
    drafts += o.drafts;
    draft_tokens += o.draft_tokens;
    accepted_tokens += o.accepted_tokens;
    for (size_t i = 0; i < accepted_at.size(); ++i) accepted_at[i] += o.accepted_at[i];
    return *this;
  }
};

}  // namespace fathom
