// Kernels written once for any vector width. Included by gemm_avx512.cpp and gemm_avx2.cpp only,
// inside their anonymous namespace, after a struct V of vector operations: every function here
// exists once per instruction set and is seen by nobody else. No include guard, on purpose.

// Vectors that hold a strip's 4 rows z, 4 + z, ...: one of 64 bytes, or two of 32.
constexpr int kHalves = kStripRows / V::kLanes;

inline V::F load_as_float(const void* p, bool bf16, int64_t i) {
  return bf16 ? V::load_bf16(static_cast<const uint16_t*>(p) + i)
              : V::load(static_cast<const float*>(p) + i);
}

inline void store_from_float(void* p, bool bf16, int64_t i, V::F v) {
  if (bf16)
    V::store_bf16(static_cast<uint16_t*>(p) + i, v);
  else
    V::store(static_cast<float*>(p) + i, v);
}

// The same for the last `n` < kLanes values of a row; lanes beyond are zero.
inline V::F load_part(const void* p, bool bf16, int64_t i, int64_t n) {
  alignas(64) uint8_t buffer[64] = {};
  size_t size = bf16 ? 2 : 4;
  memcpy(buffer, static_cast<const uint8_t*>(p) + i * size, n * size);
  return load_as_float(buffer, bf16, 0);
}

inline void store_part(void* p, bool bf16, int64_t i, int64_t n, V::F v) {
  alignas(64) uint8_t buffer[64];
  size_t size = bf16 ? 2 : 4;
  store_from_float(buffer, bf16, 0, v);
  memcpy(static_cast<uint8_t*>(p) + i * size, buffer, n * size);
}

// Calls body(load, store, i) for each vector of [0, n), the last one by parts.
template <class Body>
inline void for_vectors(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes)
    body([&](const void* p, bool bf16) { return load_as_float(p, bf16, i); },
         [&](void* p, bool bf16, V::F v) { store_from_float(p, bf16, i, v); });
  if (i < n)
    body([&](const void* p, bool bf16) { return load_part(p, bf16, i, n - i); },
         [&](void* p, bool bf16, V::F v) { store_part(p, bf16, i, n - i, v); });
}

// ------------------------------------------------------------------------------------ products

// Adds the lanes of 4 accumulators: outputs of consecutive rows, in order.
inline V::F add_lanes(const V::F* a) {
  V::F low = V::add(V::unpack_low(a[0], a[1]), V::unpack_high(a[0], a[1]));
  V::F high = V::add(V::unpack_low(a[2], a[3]), V::unpack_high(a[2], a[3]));
  return V::add(V::unpack_low_pairs(low, high), V::unpack_high_pairs(low, high));
}

inline void store_outputs(void* out, bool bf16, int64_t at, int half, int columns, V::F v) {
  int64_t begin = at + half * V::kLanes;
  int left = columns - half * V::kLanes;
  if (left >= V::kLanes)
    store_from_float(out, bf16, begin, v);
  else if (left > 0)
    store_part(out, bf16, begin, left, v);
}

// Spreads the fetching of the weights that will be packed next over the tiles that run before: all
// at once they would fill the queues between the caches and stall everything behind them.
struct WeightsAhead {
  explicit WeightsAhead(const TileJob& job, int tiles)
      : data(job.ahead), stride(job.ahead_stride), lines(job.ahead ? job.ahead_lines : 0) {
    int steps = tiles * kHalves * ((job.units + 3) / 4);
    per_step = (lines + steps - 1) / steps;
  }
  void step() {
    for (int i = 0; i < per_step && next < lines; ++i, ++next)
      _mm_prefetch(reinterpret_cast<const char*>(data + next % kStripRows * stride +
                                                 next / kStripRows * int64_t{64}),
                   _MM_HINT_T0);
  }

  const uint8_t* data;
  int64_t stride;
  int lines, per_step = 0, next = 0;
};

// kRows activation rows against half a strip (or all of it).
template <class Dot, int kRows>
inline void tile_rows(const TileJob& job, int row, int half, WeightsAhead& weights) {
  const uint8_t* x[kRows];
  const uint8_t* x_next[kRows];
  for (int m = 0; m < kRows; ++m) {
    x[m] = job.x[row + m] + job.x_offset;
    int next = row + kRows + m;
    x_next[m] = job.x[next < job.rows ? next : job.rows - 1] + job.x_offset;
  }
  const uint8_t* w = job.panel + half * sizeof(V::F);
  V::F sum[kRows];
  float* carry = job.carry + int64_t{row} * kStripRows + half * V::kLanes;
  for (int m = 0; m < kRows; ++m) sum[m] = job.first ? V::zero() : V::load(carry + m * kStripRows);

  int block = job.w_scale ? Dot::kUnitsPerBlock : job.units;
  for (int begin = 0; begin < job.units; begin += block) {
    int end = begin + block < job.units ? begin + block : job.units;
    V::F a[kRows][4];
    for (int m = 0; m < kRows; ++m)
      for (int z = 0; z < 4; ++z) a[m][z] = V::zero();
    for (int64_t u = begin; u < end;) {
      weights.step();
      for (int m = 0; m < kRows; ++m)  // and the next tile's activations, a line a row
        _mm_prefetch(reinterpret_cast<const char*>(x_next[m] + u * 16), _MM_HINT_T0);
      for (int64_t stop = u + 4 < end ? u + 4 : end; u < stop; ++u)
        for (int m = 0; m < kRows; ++m) {
          V::F xv = V::broadcast_unit(x[m] + u * 16);
          for (int z = 0; z < 4; ++z)
            a[m][z] = Dot::add(a[m][z], xv,
                               V::load(reinterpret_cast<const float*>(w + u * 256 + z * 64)));
        }
    }
    for (int m = 0; m < kRows; ++m) {
      V::F part = add_lanes(a[m]);
      if (job.w_scale) {
        int i = begin / Dot::kUnitsPerBlock;
        part = V::mul(part, V::set1(job.x_scale[row + m][job.x_scale_offset + i]));
        part = V::mul(part, V::set1(job.w_scale[i]));
      }
      sum[m] = V::add(sum[m], part);
    }
  }
  for (int m = 0; m < kRows; ++m) {
    if (job.last)
      store_outputs(job.out, job.out_bf16, (row + m) * job.out_stride, half, job.columns, sum[m]);
    else
      V::store(carry + m * kStripRows, sum[m]);
  }
}

template <class Dot, int kRows>
inline void tile_strip(const TileJob& job, int row, WeightsAhead& weights) {
  for (int half = 0; half < kHalves; ++half) tile_rows<Dot, kRows>(job, row, half, weights);
}

// All rows, in tiles of nearly equal height: the register file holds V::kTileRows.
template <class Dot>
void tile(const TileJob& job) {
  int tiles = (job.rows + V::kTileRows - 1) / V::kTileRows;
  WeightsAhead weights(job, tiles);
  for (int t = 0; t < tiles; ++t) {
    int row = job.rows * t / tiles, rows = job.rows * (t + 1) / tiles - row;
    switch (rows) {
      case 1:
        tile_strip<Dot, 1>(job, row, weights);
        break;
      case 2:
        tile_strip<Dot, 2>(job, row, weights);
        break;
      case 3:
        tile_strip<Dot, 3>(job, row, weights);
        break;
      case 4:
        if constexpr (V::kTileRows >= 4) tile_strip<Dot, 4>(job, row, weights);
        break;
      case 5:
        if constexpr (V::kTileRows >= 5) tile_strip<Dot, 5>(job, row, weights);
        break;
      default:
        if constexpr (V::kTileRows >= 6) tile_strip<Dot, 6>(job, row, weights);
    }
  }
}

struct DotF32 {
  static constexpr int kUnitsPerBlock = kBlock / 4;
  static V::F add(V::F sum, V::F x, V::F w) { return V::fma(x, w, sum); }
};

// ------------------------------------------------------------------------------ float32 panels

// e4m3 -> float32: shifted into place the exponent is 120 too small, which a multiplication mends
// exactly, subnormal codes included. The NaN code is the one value that this does not give.
inline __m256 expand_fp8(__m128i codes) {
  __m256i c = _mm256_cvtepu8_epi32(codes);
  __m256i magnitude = _mm256_and_si256(c, _mm256_set1_epi32(0x7F));
  __m256i sign = _mm256_slli_epi32(_mm256_xor_si256(c, magnitude), 24);
  __m256i value =
      _mm256_castps_si256(_mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(magnitude, 20)),
                                        _mm256_castsi256_ps(_mm256_set1_epi32((120 + 127) << 23))));
  __m256i nan = _mm256_slli_epi32(_mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7F)), 22);
  return _mm256_castsi256_ps(_mm256_or_si256(_mm256_or_si256(value, sign), nan));
}

inline __m256 round_to_bf16(__m256 v) {
  __m256i u = _mm256_castps_si256(v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  // NaN: quiet it instead, since the carry could run into the sign.
  __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
  return _mm256_castsi256_ps(_mm256_and_si256(r, _mm256_set1_epi32(static_cast<int>(0xFFFF0000))));
}

// 8 weights as float32 from any code.
inline __m256 load_weights(const uint8_t* p, WeightCode code) {
  switch (code) {
    case WeightCode::fp8:
      return expand_fp8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    case WeightCode::bf16:
      return _mm256_castsi256_ps(_mm256_slli_epi32(
          _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
    case WeightCode::f16:
      return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    default:
      return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  }
}

template <WeightCode kCode>
inline void pack_row_f32(const Strip& strip, const uint8_t* row, int64_t k0, int depth,
                         uint8_t* panel) {
  constexpr int kSize = kCode == WeightCode::fp8 ? 1 : kCode == WeightCode::f32 ? 4 : 2;
  for (int k = 0; k < depth; k += 8, panel += 512) {
    alignas(32) uint8_t buffer[32] = {};
    const uint8_t* p = row + (k0 + k) * kSize;
    if (depth - k < 8) {
      memcpy(buffer, p, (depth - k) * kSize);
      p = buffer;
    }
    __m256 v = load_weights(p, kCode);
    if (kCode == WeightCode::fp8 && strip.scale) {
      v = _mm256_mul_ps(v, _mm256_set1_ps(strip.scale[(k0 + k) / kBlock]));
      if (strip.round_to_bf16) v = round_to_bf16(v);
    }
    _mm_storeu_ps(reinterpret_cast<float*>(panel), _mm256_castps256_ps128(v));
    _mm_storeu_ps(reinterpret_cast<float*>(panel + 256), _mm256_extractf128_ps(v, 1));
  }
}

void pack_f32(const Strip& strip, int64_t k0, int depth, uint8_t* panel) {
  int padded = (depth + kStep - 1) / kStep * kStep;
  // Units past the last whole or partial 8 columns: zero, as the activations are.
  for (int unit = (depth + 7) / 8 * 2; unit < padded / 4; ++unit)
    memset(panel + unit * 256, 0, 256);
  for (int r = 0; r < kStripRows; ++r) {
    const uint8_t* row = strip.data + (r < strip.rows ? r : strip.rows - 1) * strip.stride;
    uint8_t* at = panel + (r % 4) * 64 + (r / 4) * 16;
    switch (strip.code) {
      case WeightCode::fp8:
        pack_row_f32<WeightCode::fp8>(strip, row, k0, depth, at);
        break;
      case WeightCode::bf16:
        pack_row_f32<WeightCode::bf16>(strip, row, k0, depth, at);
        break;
      case WeightCode::f16:
        pack_row_f32<WeightCode::f16>(strip, row, k0, depth, at);
        break;
      default:
        pack_row_f32<WeightCode::f32>(strip, row, k0, depth, at);
    }
  }
}
