// How decode spreads one launch over the processors: plain host code, no device in sight.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom::cuda::decode {

inline constexpr int kTileHeads = 64;   // heads of one thread block
inline constexpr int kBlockKeys = 64;   // keys of one step
inline constexpr int kMaxSplits = 132;  // of one token's keys
inline constexpr int kMaxTokens = 65535;

struct Shape {
  int tokens, heads;
  int64_t keys;  // of one token, at most: topk, or the longest context
  int sms;
  bool batch_invariant;
};

struct Plan {
  int splits;        // parts a token's keys are cut into; 1: no second pass
  int group_tokens;  // tokens of one launch; more only bounds the scratch
};

// Batch-invariant: from heads and keys alone, so that a token's bits do not depend on how many
// there are.
Plan plan(const Shape& shape);

// Float32 sums of every split, then their maxima and denominators.
size_t partial_bytes(const Plan& plan, int tokens, int heads);

}  // namespace fathom::cuda::decode
