// Products of float32 activations with weights of any code, for processors without an instruction
// for bf16 products and for `exact` numerics. Included like gemm_inl.h, behind it. Weights are
// expanded in registers: streamed there into the sums when there are few activation rows, or into a
// panel that many rows share. gemm.h has the order of the sums, which is the same for both.

constexpr int kQuad = 4;     // weight rows of a tile: their sums leave as one vector of 16 bytes
constexpr int kExpand = 32;  // weights expanded in one go
constexpr int kExpandVectors = kExpand / V::kLanes;
constexpr int kBlockVectors = kBlock / V::kLanes;

constexpr int size_of_code(WeightCode code) {
  return code == WeightCode::fp8 ? 1 : code == WeightCode::f32 ? 4 : 2;
}

// How the codes of a strip's 128 columns become numbers. FP8 codes are read as half-precision
// numbers, 2^-8 of their value, and the block's sums are multiplied by `factor`: that equals
// scaling every weight unless scaled weights must be rounded or could leave the range of float32. A
// NaN code is not NaN in half precision. In these cases (`scaled`) each weight is scaled by itself.
struct BlockCodes {
  BlockCodes(const Strip& strip, int64_t column)
      : scale(strip.scale ? strip.scale[column / kBlock] : 1.0f), round(strip.round_to_bf16) {
    if (strip.code != WeightCode::fp8) return;
    uint32_t bits;
    memcpy(&bits, &scale, 4);
    int exponent = static_cast<int>(bits >> 23 & 255) - 127;
    scaled = exponent < -100 || exponent > 100 || (round && (bits & 0x7FFFFF) != 0);
    factor = scaled ? 1.0f : 256.0f * scale;
  }
  // Whether the codes expanded so far were all numbers. If not they are to be expanded again.
  bool all_numbers() {
    if (scaled || !V::has_nan(seen)) return true;
    scaled = true;
    factor = 1.0f;
    return false;
  }

  float scale, factor = 1.0f;
  bool round, scaled = false;
  V::Codes seen = V::no_codes();
};

// 32 weights from memory.
template <WeightCode kCode, bool kScaled>
inline void expand(const uint8_t* p, BlockCodes& block, V::F (&w)[kExpandVectors]) {
  if constexpr (kCode == WeightCode::fp8 && !kScaled) {
    V::halves_of_fp8(p, w, block.seen);
  } else {
#pragma GCC unroll 4
    for (int v = 0; v < kExpandVectors; ++v, p += V::kLanes * size_of_code(kCode)) {
      if constexpr (kCode == WeightCode::fp8) {
        w[v] = V::mul(V::load_fp8(p), V::set1(block.scale));
        if (block.round) w[v] = V::round_bf16(w[v]);
      } else if constexpr (kCode == WeightCode::bf16) {
        w[v] = V::load_bf16(reinterpret_cast<const uint16_t*>(p));
      } else if constexpr (kCode == WeightCode::f16) {
        w[v] = V::load_f16(reinterpret_cast<const uint16_t*>(p));
      } else {
        w[v] = V::load(reinterpret_cast<const float*>(p));
      }
    }
  }
}

// The last `n` < 32 weights of a row and zeros.
template <WeightCode kCode, bool kScaled>
inline void expand_part(const uint8_t* p, int64_t n, BlockCodes& block, V::F (&w)[kExpandVectors]) {
  alignas(64) uint8_t buffer[kExpand * 4] = {};
  memcpy(buffer, p, n * size_of_code(kCode));
  expand<kCode, kScaled>(buffer, block, w);
}

// ------------------------------------------------------------------------------------- panels

// A panel is four quads of rows one behind the other, each [vector of columns][row < 4], and then a
// factor per block.
inline float* factors_of(uint8_t* panel) {
  return reinterpret_cast<float*>(panel + kPanelValueBytes);
}

// Columns [k, end) of all rows; `to` is their place in the first quad.
template <WeightCode kCode, bool kScaled>
void pack_block(const Strip& s, int64_t k, int64_t end, int64_t vectors, BlockCodes& block,
                float* to) {
  const int64_t left = (end - k + kStep - 1) / kStep * kStep / V::kLanes;
  for (int r = 0; r < kStripRows; ++r) {
    const uint8_t* row = s.data + (r < s.rows ? r : s.rows - 1) * s.stride;
    float* at = to + (r / kQuad * vectors * kQuad + r % kQuad) * V::kLanes;
    for (int64_t v = 0; v < left; v += kExpandVectors) {
      const int64_t column = k + v * V::kLanes;
      const uint8_t* p = row + column * size_of_code(kCode);
      V::F w[kExpandVectors];
      if (end - column >= kExpand)
        expand<kCode, kScaled>(p, block, w);
      else
        expand_part<kCode, kScaled>(p, end - column, block, w);
      for (int i = 0; i < kExpandVectors; ++i, at += kQuad * V::kLanes)
        if (v + i < left) V::store(at, w[i]);
    }
  }
}

template <WeightCode kCode>
void pack_code(const Strip& s, int64_t k0, int depth, uint8_t* panel) {
  const int64_t vectors = (depth + kStep - 1) / kStep * kStep / V::kLanes;
  float* to = reinterpret_cast<float*>(panel);
  float* factor = factors_of(panel);
  for (int64_t k = k0; k < k0 + depth; k += kBlock, to += kBlock * kQuad) {
    const int64_t end = k + kBlock < k0 + depth ? k + kBlock : k0 + depth;
    BlockCodes block(s, k);
    if (!block.scaled) pack_block<kCode, false>(s, k, end, vectors, block, to);
    if (block.scaled || !block.all_numbers())
      pack_block<kCode, true>(s, k, end, vectors, block, to);
    *factor++ = block.factor;
  }
}

void pack_f32(const Strip& strip, int64_t k0, int depth, uint8_t* panel) {
  switch (strip.code) {
    case WeightCode::fp8:
      return pack_code<WeightCode::fp8>(strip, k0, depth, panel);
    case WeightCode::bf16:
      return pack_code<WeightCode::bf16>(strip, k0, depth, panel);
    case WeightCode::f16:
      return pack_code<WeightCode::f16>(strip, k0, depth, panel);
    default:
      return pack_code<WeightCode::f32>(strip, k0, depth, panel);
  }
}

// Of the `columns` outputs from `at` on, the first 4.
inline void store_quad(void* out, bool bf16, int64_t at, int columns, __m128 v) {
  alignas(64) float values[V::kLanes] = {};
  alignas(64) uint8_t bits[64];
  _mm_store_ps(values, v);
  store_from_float(bits, bf16, 0, V::load(values));
  const int64_t size = bf16 ? 2 : 4;
  uint8_t* to = static_cast<uint8_t*>(out) + at * size;
  if (columns >= kQuad)
    memcpy(to, bits, kQuad * size);
  else if (columns > 0)
    memcpy(to, bits, columns * size);
}

// The sums of kRows activations and a quad of weights: the inner loop of all panels.
template <int kRows>
inline void multiply(const float* const (&x)[kRows], const float* w, int64_t begin, int64_t end,
                     V::F (&a)[kRows][kQuad]) {
  for (int64_t v = begin; v < end; ++v) {
    V::F xv[kRows];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) xv[m] = V::load(x[m] + v * V::kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kQuad; ++r) {
      V::F wv = V::load(w + (v * kQuad + r) * V::kLanes);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) a[m][r] = V::fma(xv[m], wv, a[m][r]);
    }
  }
}

template <int kRows>
void tile_quad(const TileJob& job, int row, int quad, WeightsAhead& ahead) {
  const int64_t vectors = job.units * 4 / V::kLanes;
  const float* x[kRows];
  for (int m = 0; m < kRows; ++m)
    x[m] = reinterpret_cast<const float*>(job.x[row + m] + job.x_offset);
  const float* w = reinterpret_cast<const float*>(job.panel) + quad * vectors * kQuad * V::kLanes;
  const float* factor = reinterpret_cast<const float*>(job.panel + kPanelValueBytes);
  V::F total[kRows][kQuad];
  for (int m = 0; m < kRows; ++m)
    for (int r = 0; r < kQuad; ++r) total[m][r] = V::zero();
  for (int64_t begin = 0, block = 0; begin < vectors; begin += kBlockVectors, ++block) {
    ahead.step();
    V::F a[kRows][kQuad];
    for (int m = 0; m < kRows; ++m)
      for (int r = 0; r < kQuad; ++r) a[m][r] = V::zero();
    multiply<kRows>(x, w, begin, begin + kBlockVectors < vectors ? begin + kBlockVectors : vectors,
                    a);
    for (int m = 0; m < kRows; ++m) {
      float f = factor[block];
      if (job.w_scale) f *= job.x_scale[row + m][job.x_scale_offset + block] * job.w_scale[block];
      for (int r = 0; r < kQuad; ++r) total[m][r] = V::fma(a[m][r], V::set1(f), total[m][r]);
    }
  }
  for (int m = 0; m < kRows; ++m) {
    float* carry = job.carry + int64_t{row + m} * kStripRows + quad * kQuad;
    __m128 sum = job.first ? _mm_setzero_ps() : _mm_loadu_ps(carry);
    sum = _mm_add_ps(sum, V::lane_sums(total[m]));
    if (job.last)
      store_quad(job.out, job.out_bf16, (row + m) * job.out_stride + quad * kQuad,
                 job.columns - quad * kQuad, sum);
    else
      _mm_storeu_ps(carry, sum);
  }
}

template <int kMax>
void tile_height(const TileJob& job, int row, int rows, int quad, WeightsAhead& ahead) {
  if constexpr (kMax > 1) {
    if (rows < kMax) return tile_height<kMax - 1>(job, row, rows, quad, ahead);
  }
  tile_quad<kMax>(job, row, quad, ahead);
}

// All rows, in tiles of nearly equal height, against half a panel and then the other: half of one
// stays in L1 beside the activations that pass by.
void tile_f32(const TileJob& job) {
  constexpr int kQuads = kStripRows / kQuad;
  const int tiles = (job.rows + V::kTileRows - 1) / V::kTileRows;
  const int64_t blocks = (job.units * 4 + kBlock - 1) / kBlock;
  WeightsAhead ahead(job, static_cast<int>(tiles * kQuads * blocks));
  for (int half = 0; half < kQuads && half * kQuad < job.columns; half += kQuads / 2)
    for (int t = 0; t < tiles; ++t) {
      const int row = job.rows * t / tiles, rows = job.rows * (t + 1) / tiles - row;
      for (int quad = half; quad < half + kQuads / 2 && quad * kQuad < job.columns; ++quad)
        tile_height<V::kTileRows>(job, row, rows, quad, ahead);
    }
}

// ------------------------------------------------------------------------------------- streams

// Each line of weights fetches the one at its place so many bytes on, in its row or those that come
// next: with the four rows of a quad that covers the latency of memory at the rate a core reads.
constexpr int64_t kStreamAhead = 1024;

// A weight's rows lie one behind the other, so what follows a quad's is the next quad's.
inline void fetch_ahead(const Strip& s, const uint8_t* quad, int first, int rows, int64_t offset) {
  const int64_t row_bytes = s.stride;
  offset += kStreamAhead;
  for (; offset >= row_bytes; offset -= row_bytes) quad += kQuad * s.stride;
  for (int r = first; r < first + rows; ++r)
    _mm_prefetch(reinterpret_cast<const char*>(quad + r * s.stride + offset), _MM_HINT_T0);
}

// Columns [begin, end) of weight rows [first, first + kGroup) of a quad.
template <WeightCode kCode, bool kScaled, int kRows, int kGroup>
inline void stream_block(const StreamJob& job, const uint8_t* quad, int first, int64_t begin,
                         int64_t end, BlockCodes& block, V::F (&a)[kRows][kGroup]) {
  constexpr int kSize = size_of_code(kCode);
  const Strip& s = job.strip;
  const float* x = reinterpret_cast<const float*>(job.x);
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; ++r) a[m][r] = V::zero();
  for (int64_t k = begin; k < end; k += kExpand) {
    if (k * kSize % 64 == 0) fetch_ahead(s, quad, first, kGroup, k * kSize);
    if constexpr (kSize == 4) fetch_ahead(s, quad, first, kGroup, k * kSize + 64);
    const bool whole = end - k >= kExpand;
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; ++r) {
      const uint8_t* p = quad + (first + r) * s.stride + k * kSize;
      V::F w[kExpandVectors];
      if (whole) {
        expand<kCode, kScaled>(p, block, w);
      } else {
        expand_part<kCode, kScaled>(p, end - k, block, w);
      }
      const float* at = x + k * kRows;
#pragma GCC unroll 4
      for (int v = 0; v < kExpandVectors; ++v) {
        if (v >= kStep / V::kLanes && !whole) break;
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m, at += V::kLanes)
          a[m][r] = V::fma(V::load(at), w[v], a[m][r]);
      }
    }
  }
}

// One quad of weight rows. The registers hold the sums of kRows x kGroup outputs; with many
// activations the weight rows take turns.
template <WeightCode kCode, int kRows>
void stream_quad(const StreamJob& job, int which) {
  constexpr int kFit = V::kStreamSums / kRows;
  constexpr int kGroup = kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
  const Strip& s = job.strip;
  const uint8_t* quad = s.data + which * kQuad * s.stride;
  __m128 sum[kRows];
  for (int m = 0; m < kRows; ++m) sum[m] = _mm_setzero_ps();
  for (int64_t pass = 0; pass < s.columns; pass += kDepth) {
    const int64_t stop = pass + kDepth < s.columns ? pass + kDepth : s.columns;
    V::F total[kRows][kQuad];
    for (int m = 0; m < kRows; ++m)
      for (int r = 0; r < kQuad; ++r) total[m][r] = V::zero();
    for (int64_t begin = pass; begin < stop; begin += kBlock) {
      const int64_t end = begin + kBlock < stop ? begin + kBlock : stop;
      for (int first = 0; first < kQuad; first += kGroup) {
        BlockCodes block(s, begin);
        V::F a[kRows][kGroup];
        if (!block.scaled) stream_block<kCode, false>(job, quad, first, begin, end, block, a);
        if (block.scaled || !block.all_numbers())
          stream_block<kCode, true>(job, quad, first, begin, end, block, a);
        for (int m = 0; m < kRows; ++m) {
          float f = block.factor;
          if (job.w_scale) f *= job.x_scale[m][begin / kBlock] * job.w_scale[begin / kBlock];
          for (int r = 0; r < kGroup; ++r)
            total[m][first + r] = V::fma(a[m][r], V::set1(f), total[m][first + r]);
        }
      }
    }
    for (int m = 0; m < kRows; ++m) sum[m] = _mm_add_ps(sum[m], V::lane_sums(total[m]));
  }
  for (int m = 0; m < kRows; ++m)
    store_quad(job.out, job.out_bf16, m * job.out_stride + which * kQuad, kQuad, sum[m]);
}

template <WeightCode kCode, int kMax>
void stream_rows(const StreamJob& job) {
  if constexpr (kMax > 1) {
    if (job.rows < kMax) return stream_rows<kCode, kMax - 1>(job);
  }
  for (int quad = 0; quad < kStripRows / kQuad; ++quad) stream_quad<kCode, kMax>(job, quad);
}

void stream_f32(const StreamJob& job) {
  switch (job.strip.code) {
    case WeightCode::fp8:
      return stream_rows<WeightCode::fp8, kStreamRows>(job);
    case WeightCode::bf16:
      return stream_rows<WeightCode::bf16, kStreamRows>(job);
    case WeightCode::f16:
      return stream_rows<WeightCode::f16, kStreamRows>(job);
    default:
      return stream_rows<WeightCode::f32, kStreamRows>(job);
  }
}
