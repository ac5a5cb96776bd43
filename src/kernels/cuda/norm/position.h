// What happens to a token once its position is known: rope of the queries, the cache entry, the
// indexer's key and queries. The four parts do not depend on each other; any set of them runs as
// one kernel, because at decode each alone is a launch and little else.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/prim/launch.h"
#include "numerics/bf16.h"
#include "numerics/cache_rows.h"

namespace fathom::cuda {

// In place on the last 64 values of each head, interleaved pairs. Null q: not wanted.
struct RopeQueryPart {
  Bf16* q = nullptr;  // [tokens, heads, width]
  int heads = 0;
  int width = 0;       // nope + rope, a multiple of 8
  int64_t stride = 0;  // elements between tokens, a multiple of 8
};

// rms_norm of 512 values and interleaved rope of 64, to the latent cache. Null kv_a: not wanted.
struct LatentPart {
  const Bf16* kv_a = nullptr;   // [tokens, 576]
  int64_t stride = 0;           // elements, a multiple of 8
  const float* gain = nullptr;  // [512]
  float eps = 0;
  std::byte* cache = nullptr;  // rows of 656 bytes (fp8) or 1152 bytes (bf16)
  bool fp8 = true;
  bool ue8m0 = true;
};

// Layer norm of 128 values and split-half rope of the first 64; fp8 also Hadamard rotation and
// quantisation; to the indexer's pages. Null k: not wanted.
struct IndexKeyPart {
  const Bf16* k = nullptr;        // [tokens, 128]
  int64_t stride = 0;             // elements, a multiple of 8
  const float* weight = nullptr;  // [128]
  const float* bias = nullptr;    // [128]
  std::byte* cache = nullptr;     // IndexPageFp8 pages, or rows of 128 bf16
  bool fp8 = true;
  bool ue8m0 = true;
};

// The same rotation of each indexer query head. Null q: not wanted.
struct IndexQueryPart {
  const Bf16* q = nullptr;       // [tokens, heads, 128]
  int64_t stride = 0;            // elements, a multiple of 8
  void* out = nullptr;           // [tokens, heads, 128] e4m3 codes, or bf16
  int64_t out_stride = 0;        // elements
  float* head_weight = nullptr;  // [tokens, heads], times heads^-0.5 (* scale) * 128^-0.5 in place
  int64_t weight_stride = 0;
  int heads = 0;
  bool fp8 = true;
  bool ue8m0 = true;
};

struct PositionParams {
  int tokens = 0;
  const int32_t* positions = nullptr;    // [tokens]
  const int32_t* sequence_of = nullptr;  // [tokens]
  const int32_t* page_tables = nullptr;  // [sequences, max_pages]
  int max_pages = 0;
  const float* cos = nullptr;  // [positions, 32]
  const float* sin = nullptr;  // [positions, 32]
  RopeQueryPart rope_query;
  LatentPart latent;
  IndexKeyPart index_key;
  IndexQueryPart index_query;
};
void run_position(const PositionParams& p, const Launch& l);

}  // namespace fathom::cuda
