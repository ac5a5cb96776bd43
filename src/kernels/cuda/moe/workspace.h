// Scratch of the permutation: a plain function of sizes, so that memory is planned without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom::cuda {
namespace moe {

inline constexpr int kPairs = 1024;  // (token, slot) pairs of a block of threads, one a thread

constexpr int pair_blocks(int tokens, int per_token) {
  return static_cast<int>((int64_t{tokens} * per_token + kPairs - 1) / kPairs);
}

}  // namespace moe

constexpr size_t permute_workspace(int tokens, int per_token, int experts) {
  const int blocks = moe::pair_blocks(tokens, per_token);
  return blocks > 1 ? sizeof(uint32_t) * static_cast<size_t>(blocks) * static_cast<size_t>(experts)
                    : 0;
}

}  // namespace fathom::cuda
