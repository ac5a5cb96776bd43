// Products of float32 activations with weights of any code, for processors without an instruction
// for bf16 products and for `exact` numerics. Included like gemm_inl.h, after it. Weights are
// expanded in registers: streamed there into the sums when there are few activation rows, or into a
// panel that many rows share. gemm.h has the order of the sums, which is the same for both.

constexpr int kQuad = 4;     // weight rows of a tile: their sums leave as one vector of 16 bytes
constexpr int kExpand = 32;  // weights expanded in one go
constexpr int kExpandVectors = kExpand / V::kLanes;
constexpr int kBlockVectors = kBlock / V::kLanes;

constexpr int size_of_code(WeightCode code) {
  return code == WeightCode::fp8 ? 1 : code == WeightCode::f32 ? 4 : 2;
}

// How the codes of a block of 128 columns become numbers. FP8 codes are read as half-precision
// numbers, which are 2^-8 of their values, and the sums of products are multiplied by `factor`.
// That equals scaling every weight, unless scaled weights must be rounded or could leave the range
// of float32. In those cases (`scaled`) each weight is scaled by itself.
struct BlockCodes {
  BlockCodes() = default;
  BlockCodes(const Strip& strip, int64_t column) {
    if (strip.code != WeightCode::fp8) return;
    scale = strip.scale ? strip.scale[column / kBlock] : 1.0f;
    round = strip.round_to_bf16;
    uint32_t bits;
    memcpy(&bits, &scale, 4);
    int exponent = static_cast<int>(bits >> 23 & 255) - 127;
    scaled = exponent < -100 || exponent > 100 || (round && (bits & 0x7FFFFF) != 0);
    factor = scaled ? 1.0f : 256.0f * scale;
  }
  // The same numbers by a slower way that keeps NaN codes, which half precision would read as
  // finite.
  BlockCodes careful() const {
    BlockCodes block = *this;
    if (!scaled) {
      block.scale = 0x1p-8f;
      block.round = false;
      block.scaled = true;
    }
    return block;
  }

  float scale = 1.0f, factor = 1.0f;
  bool round = false, scaled = false;
};

// 32 weights from memory.
template <WeightCode kCode, bool kScaled>
[[gnu::always_inline]] inline void expand(const uint8_t* p, const BlockCodes& block, V::Codes& seen,
                                          V::F (&w)[kExpandVectors]) {
  if constexpr (kCode == WeightCode::fp8 && !kScaled) {
    V::halves_of_fp8(p, w, seen);
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
inline void expand_part(const uint8_t* p, int64_t n, const BlockCodes& block, V::Codes& seen,
                        V::F (&w)[kExpandVectors]) {
  alignas(64) uint8_t buffer[kExpand * 4] = {};
  memcpy(buffer, p, n * size_of_code(kCode));
  expand<kCode, kScaled>(buffer, block, seen, w);
}

// ------------------------------------------------------------------------------------- panels

// A panel is four quads of rows one after the other, each [vector of columns][row < 4], followed by
// one factor per block.
inline float* factors_of(uint8_t* panel) {
  return reinterpret_cast<float*>(panel + kPanelValueBytes);
}

// Columns [k, end) of all rows; `to` is their place in the first quad. True: there was a NaN code.
template <WeightCode kCode, bool kScaled>
bool pack_block(const Strip& s, int64_t k, int64_t end, int64_t vectors, const BlockCodes& block,
                float* to) {
  V::Codes seen = V::no_codes();
  for (int r = 0; r < kStripRows; ++r) {
    const uint8_t* p = s.data + (r < s.rows ? r : s.rows - 1) * s.stride + k * size_of_code(kCode);
    float* at = to + (r / kQuad * vectors * kQuad + r % kQuad) * V::kLanes;
    int64_t columns = end - k;
    for (; columns >= kExpand; columns -= kExpand, p += kExpand * size_of_code(kCode)) {
      V::F w[kExpandVectors];
      expand<kCode, kScaled>(p, block, seen, w);
#pragma GCC unroll 4
      for (int i = 0; i < kExpandVectors; ++i, at += kQuad * V::kLanes) V::store(at, w[i]);
    }
    if (columns == 0) continue;
    V::F w[kExpandVectors];
    expand_part<kCode, kScaled>(p, columns, block, seen, w);
    const int64_t rest = (columns + kStep - 1) / kStep * (kStep / V::kLanes);
    for (int64_t i = 0; i < rest; ++i, at += kQuad * V::kLanes) V::store(at, w[i]);
  }
  return V::has_nan(seen);
}

template <WeightCode kCode>
void pack_code(const Strip& s, int64_t k0, int depth, uint8_t* panel) {
  constexpr bool kFp8 = kCode == WeightCode::fp8;
  const int64_t vectors = (depth + kStep - 1) / kStep * kStep / V::kLanes;
  float* to = reinterpret_cast<float*>(panel);
  float* factor = factors_of(panel);
  for (int64_t k = k0; k < k0 + depth; k += kBlock, to += kBlock * kQuad) {
    const int64_t end = k + kBlock < k0 + depth ? k + kBlock : k0 + depth;
    BlockCodes block(s, k);
    if (block.scaled || pack_block<kCode, false>(s, k, end, vectors, block, to))
      pack_block<kCode, kFp8>(s, k, end, vectors, block.careful(), to);
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

// Stores up to 4 of the `columns` outputs from `at` on.
inline void store_quad(void* out, bool bf16, int64_t at, int columns, __m128 v) {
  alignas(64) uint8_t bits[64];
  store_from_float(bits, bf16, 0, V::of_quad(v));
  const int64_t size = bf16 ? 2 : 4;
  uint8_t* to = static_cast<uint8_t*>(out) + at * size;
  if (columns < kQuad)
    memcpy(to, bits, columns * size);
  else if (bf16)
    memcpy(to, bits, 8);
  else
    memcpy(to, bits, 16);
}

// The sums of kRows activations and a quad of weights: the inner loop of all panels.
template <int kRows>
[[gnu::always_inline]] inline void multiply(const float* const (&x)[kRows], const float* w,
                                            int64_t begin, int64_t end, V::F (&a)[kRows][kQuad]) {
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int r = 0; r < kQuad; ++r) a[m][r] = V::zero();
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

// The end of the run of blocks that share one factor; they are summed in one go.
inline int same_factor(const float* factor, int block, int blocks, bool coded) {
  int end = block + 1;
  while (!coded && end < blocks && factor[end] == factor[block]) ++end;
  return end;
}

// Adds a * factor to the totals. In the coded form the factor includes each activation row's own
// scale.
template <int kRows, int kGroup>
[[gnu::always_inline]] inline void fold(const V::F (&a)[kRows][kGroup], float factor,
                                        const float* const* x_scale, int64_t block, float w_scale,
                                        V::F* total, int stride) {
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    V::F f = V::set1(x_scale ? factor * (x_scale[m][block] * w_scale) : factor);
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; ++r) {
      V::F& t = total[m * stride + r];
      t = V::fma(a[m][r], f, t);
    }
  }
}

template <int kRows>
void tile_quad(const TileJob& job, int row, int quad, WeightsAhead& ahead) {
  const int vectors = job.units * 4 / V::kLanes;
  const int blocks = (vectors + kBlockVectors - 1) / kBlockVectors;
  const float* x[kRows];
  for (int m = 0; m < kRows; ++m)
    x[m] = reinterpret_cast<const float*>(job.x[row + m] + job.x_offset);
  const float* w = reinterpret_cast<const float*>(job.panel) + quad * vectors * kQuad * V::kLanes;
  const float* factor = reinterpret_cast<const float*>(job.panel + kPanelValueBytes);
  const float* const* x_scale = job.w_scale ? job.x_scale + row : nullptr;
  V::F total[kRows][kQuad];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int r = 0; r < kQuad; ++r) total[m][r] = V::zero();
  for (int block = 0, end; block < blocks; block = end) {
    end = same_factor(factor, block, blocks, x_scale);
    ahead.step(end - block);
    V::F a[kRows][kQuad];
    multiply<kRows>(x, w, block * kBlockVectors, end < blocks ? end * kBlockVectors : vectors, a);
    fold<kRows, kQuad>(a, factor[block], x_scale, job.x_scale_offset + block,
                       x_scale ? job.w_scale[block] : 1.0f, &total[0][0], kQuad);
  }
#pragma GCC unroll 8
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

// All rows, in tiles of nearly equal height, against one half of the panel and then the other: half
// a panel stays in L1 together with the activations.
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

// Each cache line of weights prefetches the one this many bytes further in its row, or in the rows
// after it. With the four rows of a quad that covers the latency of memory at the rate at which a
// core reads.
constexpr int64_t kStreamAhead = 1024;

// With more rows there are not enough registers for the sums, and a panel is faster.
constexpr int kStreamRowsF32 = 4;

// A weight's rows lie one behind the other, so what follows a quad's is the next quad's.
inline void fetch_ahead(const Strip& s, const uint8_t* quad, int first, int rows, int64_t offset) {
  const int64_t row_bytes = s.stride;
  offset += kStreamAhead;
  for (; offset >= row_bytes; offset -= row_bytes) quad += kQuad * s.stride;
  for (int r = first; r < first + rows; ++r)
    _mm_prefetch(reinterpret_cast<const char*>(quad + r * s.stride + offset), _MM_HINT_T0);
}

// Adds the products of columns [begin, end) and weight rows [first, first + kGroup) of a quad.
template <WeightCode kCode, bool kScaled, int kRows, int kGroup>
[[gnu::always_inline]] inline void stream_columns(const StreamJob& job, const uint8_t* quad,
                                                  int first, int64_t begin, int64_t end,
                                                  const BlockCodes& block, V::Codes& all_seen,
                                                  V::F (&a)[kRows][kGroup]) {
  constexpr int kSize = size_of_code(kCode);
  const Strip& s = job.strip;
  const float* x = reinterpret_cast<const float*>(job.x) + begin * kRows;
  auto add = [&](const V::F(&w)[kExpandVectors], int r, int vectors)
      __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m)
        a[m][r] = V::fma(V::load(x + (v * kRows + m) * V::kLanes), w[v], a[m][r]);
  };
  V::Codes seen = all_seen;
  int64_t k = begin;
  for (; k + kExpand <= end; k += kExpand, x += kExpand * kRows) {
    for (int line = 0; line < kExpand * kSize; line += 64)
      if ((k * kSize + line) % 64 == 0) fetch_ahead(s, quad, first, kGroup, k * kSize + line);
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; ++r) {
      V::F w[kExpandVectors];
      expand<kCode, kScaled>(quad + (first + r) * s.stride + k * kSize, block, seen, w);
      add(w, r, kExpandVectors);
    }
  }
  for (int r = 0; k < end && r < kGroup; ++r) {
    V::F w[kExpandVectors];
    expand_part<kCode, kScaled>(quad + (first + r) * s.stride + k * kSize, end - k, block, seen, w);
    add(w, r, kStep / V::kLanes);
  }
  all_seen = seen;
}

// Sums blocks [block, end) of the pass that begins at column `pass`. Returns whether there was a
// NaN code that the fast way misread; the caller then repeats the blocks with `careful`.
template <WeightCode kCode, int kRows, int kGroup>
inline bool stream_blocks(const StreamJob& job, const uint8_t* quad, int first, int64_t pass,
                          const BlockCodes* codes, int block, int end, bool careful,
                          V::F (&a)[kRows][kGroup]) {
  V::Codes seen = V::no_codes();
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; ++r) a[m][r] = V::zero();
  for (int stop; block < end; block = stop) {
    stop = block + 1;
    const bool scaled = codes[block].scaled || careful;
    while (!scaled && stop < end && !codes[stop].scaled) ++stop;
    const int64_t from = pass + block * kBlock;
    const int64_t to =
        pass + stop * kBlock < job.strip.columns ? pass + stop * kBlock : job.strip.columns;
    if (scaled)
      stream_columns<kCode, kCode == WeightCode::fp8, kRows, kGroup>(
          job, quad, first, from, to, codes[block].careful(), seen, a);
    else
      stream_columns<kCode, false, kRows, kGroup>(job, quad, first, from, to, codes[block], seen,
                                                  a);
  }
  return !careful && V::has_nan(seen);
}

// One quad of weight rows. The registers hold the sums of kRows x kGroup outputs. With many
// activations they hold fewer weight rows (kGroup = 2), which are done in two rounds.
template <WeightCode kCode, int kRows>
void stream_quad(const StreamJob& job, int which) {
  constexpr int kFit = V::kStreamSums / kRows;
  constexpr int kGroup = kFit >= 4 ? 4 : 2;
  constexpr int kBlocks = kDepth / kBlock;
  const Strip& s = job.strip;
  const uint8_t* quad = s.data + which * kQuad * s.stride;
  const float* const* x_scale = job.w_scale ? job.x_scale : nullptr;
  __m128 sum[kRows];
  for (int m = 0; m < kRows; ++m) sum[m] = _mm_setzero_ps();
  for (int64_t pass = 0; pass < s.columns; pass += kDepth) {
    BlockCodes codes[kBlocks];
    float factor[kBlocks];
    int blocks = 0;
    for (int64_t k = pass; blocks < kBlocks && k < s.columns; k += kBlock, ++blocks) {
      codes[blocks] = BlockCodes(s, k);
      factor[blocks] = codes[blocks].factor;
    }
    V::F total[kRows][kQuad];
    for (int m = 0; m < kRows; ++m)
      for (int r = 0; r < kQuad; ++r) total[m][r] = V::zero();
    for (int block = 0, end; block < blocks; block = end) {
      end = same_factor(factor, block, blocks, x_scale);
      for (int first = 0; first < kQuad; first += kGroup) {
        V::F a[kRows][kGroup];
        if (stream_blocks<kCode>(job, quad, first, pass, codes, block, end, false, a))
          stream_blocks<kCode>(job, quad, first, pass, codes, block, end, true, a);
        const int64_t at = pass / kBlock + block;
        fold<kRows, kGroup>(a, factor[block], x_scale, at, x_scale ? job.w_scale[at] : 1.0f,
                            &total[0][first], kQuad);
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

void stream_strip(const StreamJob& job) {
  switch (job.strip.code) {
    case WeightCode::fp8:
      return stream_rows<WeightCode::fp8, kStreamRowsF32>(job);
    case WeightCode::bf16:
      return stream_rows<WeightCode::bf16, kStreamRowsF32>(job);
    case WeightCode::f16:
      return stream_rows<WeightCode::f16, kStreamRowsF32>(job);
    default:
      return stream_rows<WeightCode::f32, kStreamRowsF32>(job);
  }
}
