// How decode spreads one launch over the processors: plain host code, no device in sight.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom::cuda::decode {

inline constexpr int kTileHeads = 64;   // heads of one thread block
inline constexpr int kBlockKeys = 64;   // keys of one step
inline constexpr int kMaxSplits = 132;  // of one token's keys
inline constexpr int kMaxTokens = 65535;
// The second kernel loads so many splits of a row together; from kManySplits on more threads do.
inline constexpr int kSplitsAtOnce = 8, kManySplits = 16, kManyAtOnce = 4 * kSplitsAtOnce;

struct Shape {
  int tokens, heads;
  int64_t keys;  // of one token, at most: topk, or the longest context
  int sms;
  bool batch_invariant;
  bool dense = false;  // every position up to the token's own
};

struct Plan {
  int splits;        // parts a token's keys are cut into; 1: no second pass
  int group_tokens;  // tokens of one launch; more only bounds the scratch
};

// Batch-invariant: the cut depends on heads and top-k alone, since the longest context of a batch
// is a matter of the other tokens.
Plan plan(const Shape& shape);

// Float32 sums of every split, then their maxima and denominators.
size_t partial_bytes(const Plan& plan, int tokens, int heads);

// Bound of partial_bytes for any number of tokens up to max_tokens and any number of keys: a plan
// with splits has at most kMaxWaves thread blocks a processor in one launch.
inline constexpr int kMaxWaves = 4;
size_t partial_bound(int max_tokens, int heads, int sms);

}  // namespace fathom::cuda::decode
