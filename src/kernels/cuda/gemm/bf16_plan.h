// Which kernel shape, split and grid a bf16 product runs with. Plain code without a device.
#pragma once

#include <cstdint>

namespace fathom::cuda {

// A tile multiplies `m_rows()` rows of one operand (wgmma's M side, 64 a warpgroup) with `n_rows`
// rows of the other (its N side). With few tokens the weights take the M side, so that tokens need
// no padding to 64; with many the tokens take it, which leaves output rows in whole lines.
struct Bf16Shape {
  int warpgroups = 1;  // 1 or 2
  int n_rows = 8;
  bool tokens_m = false;
  bool grouped = false;

  constexpr int m_rows() const { return 64 * warpgroups; }
  constexpr int token_rows() const { return tokens_m ? m_rows() : n_rows; }
  constexpr int weight_rows() const { return tokens_m ? n_rows : m_rows(); }
  constexpr int stage_bytes() const { return (m_rows() + n_rows) * 128; }  // 64 of k, 2 bytes each
  // CTAs that share a processor, so that one's epilogue runs under another's products: it pays
  // where k is short. The others take all of its memory for their ring.
  constexpr int per_processor() const { return tokens_m && warpgroups == 1 ? 3 : 1; }
  bool operator==(const Bf16Shape&) const = default;
};

// Whether a kernel of this shape can also write its results' FP8 form: it sees whole groups.
constexpr bool bf16_codes_shape(const Bf16Shape& s) {
  return s.warpgroups == 2 && s.weight_rows() == 128 && !s.grouped;
}

struct Bf16Plan {
  Bf16Shape shape;
  int splits = 1;  // CTAs of a cluster that share the k of one tile; then one tile a cluster
  int stages = 2;  // of the ring in shared memory
  int grid = 1;    // CTAs, a multiple of `splits`
  int smem = 0;    // bytes
};

struct Bf16Problem {
  int64_t rows = 0, n = 0, k = 0, batch = 1;
  int experts = 0;  // > 0: grouped; `rows` is the bound on all experts' rows together
};

inline constexpr int kBf16SliceK = 64;        // k of a stage: 128 bytes, one swizzle row
inline constexpr int kBf16MaxExperts = 1024;  // the grouped kernel's table in shared memory

// With batch_invariant the split (the only choice that moves bits) does not depend on rows.
Bf16Plan plan_bf16(const Bf16Problem& problem, int sms, bool batch_invariant);

// The plan of a given shape and split, for tests and measurements.
Bf16Plan plan_bf16_as(const Bf16Problem& problem, int sms, const Bf16Shape& shape, int splits);

}  // namespace fathom::cuda
