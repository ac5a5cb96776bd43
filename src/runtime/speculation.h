// Speculation: the MTP block guesses the next tokens of a sequence (drafts), and one step of the
// model verifies them. How it works and what it costs: docs/speculation.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fathom {

// Drafts of one sequence that a step may verify. The block is trained for the first one; the others
// feed its own state back and are right less often.
inline constexpr int kMaxSpeculativeTokens = 4;

// What became of drafts, since the start.
struct SpeculationStats {
  int64_t drafts = 0;        // runs of a sequence that held a draft: one a sequence and step
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
