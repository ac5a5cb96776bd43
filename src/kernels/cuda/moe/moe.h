// What surrounds the expert GEMMs: routing, the ragged permutation, gathers, the activation between
// the two products, and the weighted sum. T tokens, k experts a token, E experts, D hidden, I the
// expert's intermediate size.
//
// Ragged rows: all (token, slot) pairs ordered by expert, then token, then slot, no padding. Expert
// e owns rows [offsets[e], offsets[e + 1]). So a token's rows ascend with its expert ids.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/moe/workspace.h"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/prim/launch.h"
#include "numerics/bf16.h"
#include "numerics/routing.h"

namespace fathom::cuda {

inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxExpertsPerToken = 32;

struct RouteParams {
  const float* logits = nullptr;         // [T, E] router logits
  const float* bias = nullptr;           // [E] or null
  int tokens = 0;                        // T
  const int32_t* live_tokens = nullptr;  // device, or null: all; rows beyond get ids -1, weights 0
  RouterShape shape{};
  int32_t* ids = nullptr;    // [T, k] in order of preference
  float* weights = nullptr;  // [T, k]
};

struct PermuteParams {
  const int32_t* ids = nullptr;  // [T, k], -1: no expert
  int tokens = 0, per_token = 0;
  // E experts from `first` on, which are counted from 0 here; the others are another rank's, and
  // their pairs have no row.
  int first = 0, experts = 0;
  int32_t* offsets = nullptr;   // [E + 1]; offsets[E] = live rows
  int32_t* row_of = nullptr;    // [T, k] ragged row of each pair, -1 if none
  int32_t* token_of = nullptr;  // [T * k] token of each ragged row; not written past offsets[E]
};

void route(const RouteParams& params, const Launch& launch);

// Scratch: permute_workspace bytes (moe/workspace.h).
void permute(const PermuteParams& params, const Launch& launch);

// Both; one launch when there are few tokens (decode). `permute.ids` must be `route.ids`.
void route_and_permute(const RouteParams& route, const PermuteParams& permute,
                       const Launch& launch);

// out row row_of[t, slot] = in row t, where there is such a row. Codes are row-major. Scales are
// group-major, scale of group g of row r at scales[g * stride + r]; those that come in may be
// row-major, too.
struct GatherQuantisedParams {
  const uint8_t* codes = nullptr;  // [T, k] e4m3
  const float* scales = nullptr;   // of group g of row r at [g * scale_stride + r * scale_row]
  int64_t scale_stride = 0, scale_row = 1;
  int k = 0;  // width of a row, a multiple of 128
  int tokens = 0, per_token = 0;
  const int32_t* row_of = nullptr;     // [T, per_token]
  const int32_t* token_of = nullptr;   // of the rows; what row_of says, too
  const int32_t* live_rows = nullptr;  // device, = offsets + E
  uint8_t* out_codes = nullptr;        // [T * per_token, k]
  float* out_scales = nullptr;         // [k / 128, out_scale_stride]
  int64_t out_scale_stride = 0;
};
void gather_quantised(const GatherQuantisedParams& params, const Launch& launch);

struct GatherBf16Params {
  const Bf16* rows = nullptr;  // [T, n]
  int n = 0;                   // a multiple of 8
  int tokens = 0, per_token = 0;
  const int32_t* row_of = nullptr;  // [T, per_token]
  Bf16* out = nullptr;              // [T * per_token, n]
};
void gather_bf16(const GatherBf16Params& params, const Launch& launch);

// act = bf16(silu(gate) * up), as bf16 or quantised in groups of 128.
struct SiluMulParams {
  const Bf16* gate_up = nullptr;  // [max_rows, 2 I]: gate | up
  int intermediate = 0;           // I: a multiple of 8 (bf16 out) or 128 (fp8 out)
  int max_rows = 0;
  const int32_t* live_rows = nullptr;  // device, or null: all
  Bf16* out = nullptr;                 // [max_rows, I], or null: quantise
  uint8_t* codes = nullptr;            // [max_rows, I]
  float* scales = nullptr;             // [I / 128, scale_stride], group-major
  int64_t scale_stride = 0;
  bool ue8m0 = true;
};
void silu_mul(const SiluMulParams& params, const Launch& launch);

// out[t] = sum over the token's experts, in ascending id, of weight * row (f32) + shared[t];
// rounded once.
struct CombineParams {
  const Bf16* rows = nullptr;       // [live rows, D] the experts' results, ragged
  const int32_t* row_of = nullptr;  // [T, k]
  const float* weights = nullptr;   // [T, k]
  const Bf16* shared = nullptr;     // [T, D] or null
  int tokens = 0, per_token = 0;
  int n = 0;            // D, a multiple of 8
  Bf16* out = nullptr;  // [T, D]
};
void combine(const CombineParams& params, const Launch& launch);

// combine, whose sum is the norm's x: out and norm.x are not used, and the sum is not stored.
void combine_rms_norm(const CombineParams& params, const RmsNormParams& norm, const Launch& launch);

}  // namespace fathom::cuda
