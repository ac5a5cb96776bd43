// Bodies of the kernels in attention_kernels.h, written on the small vector layer that the
// including file defines before it (F: 16 floats, W: 16 words), with the shape of register blocks:
//   kProductRows  rows of a product, x kSlice accumulators each
//   kSlice        vectors of a panel's row that are worked on at a time: 4, or a divisor
//   kIndexHeads   heads of an index tile, x kSlice accumulators
//   kDotSums      accumulators of dot products: 4 or 16
//   kCodeRows     rows that FP8 codes are multiplied with at a time, x 2 accumulators each
//   kLiftedRows   the same for codes in words, x 4 accumulators each
// Included once per instruction set, inside namespace fathom and an anonymous namespace, so that
// nothing here is shared between the sets.

inline const uint32_t* words_at(const void* base, int64_t word) {
  return static_cast<const uint32_t*>(base) + word;
}

// What a product does with a word: a float32 fused multiply-add.
struct FloatElement {
  static F step(F acc, W a, W b) { return fmadd(as_floats(a), as_floats(b), acc); }
};
// The same, and weights of a softmax are rounded to bf16.
struct RoundedElement : FloatElement {};

// 16 words of a row, or 16 bf16 of one as float32 words.
struct WordRow {
  static W load(const void* row, int64_t i) { return load_words(words_at(row, i)); }
};
struct Bf16Row {
  static W load(const void* row, int64_t i) {
    return as_words(load_bf16(static_cast<const uint16_t*>(row) + i));
  }
};

// ---------------------------------------------------------------------------- product

// Rows [row, row + R) times vectors [first, first + kSlice) of the panel's rows.
template <class E, int R>
void product_slice(const PanelProduct& g, int row, int first) {
  F acc[R][kSlice];
  float* c = g.c + row * g.ldc + 16 * first;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j)
      acc[r][j] = g.carry ? mul(load(c + r * g.ldc + 16 * j), splat(g.carry[row + r])) : zero();
  const uint32_t* a = words_at(g.a, row * g.lda);
  const uint32_t* b = words_at(g.b, 16 * first);
  for (int k = 0; k < g.words; ++k, b += g.ldb) {
    W y[kSlice];
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j) y[j] = load_words(b + 16 * j);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      W x = splat_word(a + r * g.lda + k);
#pragma GCC unroll 4
      for (int j = 0; j < kSlice; ++j) acc[r][j] = E::step(acc[r][j], x, y[j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j) store(c + r * g.ldc + 16 * j, acc[r][j]);
}

template <class E, int R>
void product_rows(const PanelProduct& g, int row, int first) {
  if constexpr (R > 1) {
    if (g.rows - row < R) return product_rows<E, R - 1>(g, row, first);
  }
  product_slice<E, R>(g, row, first);
}

template <class E>
void product(const PanelProduct& g) {
  for (int first = 0; first < 4; first += kSlice)
    for (int row = 0; row < g.rows; row += kProductRows)
      product_rows<E, kProductRows>(g, row, first);
}

// ---------------------------------------------------------------------------- mix

// As many rows of b stay in L1 while all slices of their columns are worked on.
constexpr int kMixRows = 16;

template <class Row, int R>
void mix_slice(const RowMix& m, int row, int begin, int end, int column) {
  F acc[R][kSlice];
  float* c = m.c + row * m.ldc + column;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j) {
      acc[r][j] = load(c + r * m.ldc + 16 * j);
      if (begin == 0) acc[r][j] = mul(acc[r][j], splat(m.carry[row + r]));
    }
  const uint32_t* a = words_at(m.a, row * m.lda);
  for (int k = begin; k < end; ++k) {
    W y[kSlice];
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j) y[j] = Row::load(m.b[k], column + 16 * j);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      W x = splat_word(a + r * m.lda + k);
#pragma GCC unroll 4
      for (int j = 0; j < kSlice; ++j) acc[r][j] = FloatElement::step(acc[r][j], x, y[j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j) store(c + r * m.ldc + 16 * j, acc[r][j]);
}

template <class Row, int R>
void mix_part(const RowMix& m, int row, int begin, int end) {
  if constexpr (R > 1) {
    if (m.rows - row < R) return mix_part<Row, R - 1>(m, row, begin, end);
  }
  for (int column = 0; column < m.columns; column += 16 * kSlice)
    mix_slice<Row, R>(m, row, begin, end, column);
}

template <class Row>
void mix_rows_of(const RowMix& m) {
  for (int begin = 0; begin < m.words; begin += kMixRows) {
    const int end = begin + kMixRows < m.words ? begin + kMixRows : m.words;
    for (int row = 0; row < m.rows; row += kMaxMixRows)
      mix_part<Row, kMaxMixRows>(m, row, begin, end);
  }
}

void mix_floats(const RowMix& m) {
  m.bf16_rows ? mix_rows_of<Bf16Row>(m) : mix_rows_of<WordRow>(m);
}

constexpr int kCodeRowsAhead = 24;

template <int R>
void mix_code_rows(const CodeMix& m, int row, __m256i& seen) {
  for (int column = 0; column < kCodeColumns; column += 32) {
    F acc[R][2];
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = zero();
    const uint32_t* a = words_at(m.a, row * m.lda);
    const uint8_t* code = m.code + column;
    for (int k = 0; k < m.words; ++k, code += m.ld) {
      // Rows are too far apart for the processor to guess the next ones.
      if (column % 64 == 0)
        _mm_prefetch(reinterpret_cast<const char*>(code + kCodeRowsAhead * m.ld), _MM_HINT_T0);
      F w[2];
      load_halves(code, w, seen);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        F x = as_floats(splat_word(a + r * m.lda + k));
        acc[r][0] = fmadd(x, w[0], acc[r][0]);
        acc[r][1] = fmadd(x, w[1], acc[r][1]);
      }
    }
    float* c = m.c + row * m.ldc + column;
    for (int r = 0; r < R; ++r)
      for (int j = 0; j < 2; ++j)
        store(c + r * m.ldc + 16 * j, mul(acc[r][j], splat(256.0f * m.scale)));
  }
}

// Four codes lie in a word, and one shift puts two of them into the exponents and mantissas of
// float32 numbers, 2^-120 of their values. Queries are multiplied by 2^112 before, so products are
// 2^-8 of theirs, like those of halves (product_words_inl.h). The sums of every fourth column are
// in one register, and are put in order at the end.
constexpr int kMaxLifted = 128;
constexpr float kQueryLift = 0x1p112f, kMostLiftedQuery = 0x1p16f;

template <int R>
void mix_word_rows(const CodeMix& m, int row, const float* lifted) {
  for (int column = 0; column < kCodeColumns; column += 64) {
    F acc[R][4];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) acc[r][i] = zero();
    const uint8_t* code = m.code + column;
    for (int k = 0; k < m.words; ++k, code += m.ld) {
      _mm_prefetch(reinterpret_cast<const char*>(code + kCodeRowsAhead * m.ld), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(code + 64), _MM_HINT_T0);  // the next columns
      F w[4];
      load_code_words(code, w);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const F x = splat(lifted[r * kMaxLifted + k]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) acc[r][i] = fmadd(x, w[i], acc[r][i]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (F& sum : acc[r]) sum = mul(sum, splat(256.0f * m.scale));
      store_word_lanes(m.c + (row + r) * m.ldc + column, acc[r]);
    }
  }
}

// Returns false if the queries are too large to be lifted.
bool mix_words(const CodeMix& m) {
  alignas(64) float lifted[kLiftedRows][kMaxLifted];
  for (int row = 0; row < m.rows; row += kLiftedRows) {
    const int rows = m.rows - row < kLiftedRows ? m.rows - row : kLiftedRows;
    F top = zero();
    for (int r = 0; r < rows; ++r) {
      const float* a = static_cast<const float*>(m.a) + (row + r) * m.lda;
      for (int k = 0; k < m.words; k += 16) {
        const F x = load(a + k);
        top = vmax(vmax(x, sub(zero(), x)), top);  // passes over NaN
        store(&lifted[r][k], mul(x, splat(kQueryLift)));
      }
    }
    if (!(greatest_lane(top) < kMostLiftedQuery)) return false;
    if (rows == kLiftedRows)
      mix_word_rows<kLiftedRows>(m, row, lifted[0]);
    else
      for (int r = 0; r < rows; ++r) mix_word_rows<1>(m, row + r, lifted[r]);
  }
  return true;
}

bool mix_codes(const CodeMix& m) {
  if (m.fit_for_words && m.words <= kMaxLifted && mix_words(m)) return true;
  __m256i seen = _mm256_setzero_si256();
  int row = 0;
  for (; row + kCodeRows <= m.rows; row += kCodeRows) mix_code_rows<kCodeRows>(m, row, seen);
  for (; row < m.rows; ++row) mix_code_rows<1>(m, row, seen);
  return !fp8_nan_seen(seen);
}

// ---------------------------------------------------------------------------- dots

// The sums of a block of H heads x kDotSums / H rows. A block always has kDotSums independent
// chains of additions, which hide each other's latency.
template <class E, class Row, int H>
void dot_block(const RowDots& d, int head, int row) {
  constexpr int R = kDotSums / H;
  F acc[kDotSums];
#pragma GCC unroll 16
  for (int i = 0; i < kDotSums; ++i) acc[i] = zero();
  const uint32_t* q = words_at(d.q, head * d.ldq);
  for (int k = 0; k < d.words; k += 16) {
    W y[H];
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) y[h] = load_words(q + h * d.ldq + k);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      W x = Row::load(d.rows[row + i], k);
#pragma GCC unroll 4
      for (int h = 0; h < H; ++h) acc[h * R + i] = E::step(acc[h * R + i], y[h], x);
    }
  }
  alignas(64) float sums[kDotSums];  // [head][row]
  lane_sums(acc, sums);
  for (int h = 0; h < H; ++h)
    __builtin_memcpy(d.out + (head + h) * d.ldo + row, sums + R * h, sizeof(float) * R);
}

template <class E, class Row, int H>
void dot_rows(const RowDots& d, int head) {
  for (int row = 0; row < d.count; row += kDotSums / H) dot_block<E, Row, H>(d, head, row);
}

template <class E, class Row>
void dots_of(const RowDots& d) {
  int head = 0;
  for (; head + 4 <= d.heads; head += 4) dot_rows<E, Row, 4>(d, head);
  for (; head + 2 <= d.heads; head += 2) dot_rows<E, Row, 2>(d, head);
  if (head < d.heads) dot_rows<E, Row, 1>(d, head);
}

void dot_floats(const RowDots& d) {
  d.bf16_rows ? dots_of<FloatElement, Bf16Row>(d) : dots_of<FloatElement, WordRow>(d);
}

// ---------------------------------------------------------------------------- softmax

// 2^x for x <= 0 to about one unit in the last place, by a Taylor polynomial on [-1/2, 1/2].
// Results below the least normal number become 0 or nearly 0.
inline F exp2_of(F x) {
  x = vmax(x, splat(-126.0f));
  F n = round_even(x);
  F f = sub(x, n);
  F p = splat(1.5403530e-4f);
  p = fmadd(p, f, splat(1.3333558e-3f));
  p = fmadd(p, f, splat(9.6181291e-3f));
  p = fmadd(p, f, splat(5.5504109e-2f));
  p = fmadd(p, f, splat(2.4022651e-1f));
  p = fmadd(p, f, splat(6.9314718e-1f));
  p = fmadd(p, f, splat(1.0f));
  return times_power_of_two(p, n);
}

inline void store_weights(FloatElement, void* out, int64_t i, F w) {
  store(static_cast<float*>(out) + i, w);
}
inline void store_weights(RoundedElement, void* out, int64_t i, F w) {
  store(static_cast<float*>(out) + i, round_bf16(w));
}

template <class E>
void softmax(const SoftmaxTile& s) {
  for (int r = 0; r < s.rows; ++r) {
    uint64_t mask = s.masks[static_cast<int64_t>(r) * s.mask_stride];
    int64_t at = static_cast<int64_t>(r) * kPanelWidth;
    if (mask == 0) {
      s.carry[r] = 1.0f;
      for (int j = 0; j < 4; ++j) store_weights(E{}, s.weights, at + 16 * j, zero());
      continue;
    }
    F scale = splat(s.scale), none = splat(kNoScore), x[4];
    for (int j = 0; j < 4; ++j)
      x[j] = keep_lanes(mask >> (16 * j), mul(load(s.scores + at + 16 * j), scale), none);
    float before = s.top[r];
    F top = splat(greatest_lane(vmax(vmax(x[0], x[1]), vmax(x[2], x[3]))));
    top = vmax(top, splat(before));
    F total = zero();
    for (int j = 0; j < 4; ++j) {
      F w = keep_lanes(mask >> (16 * j), exp2_of(sub(x[j], top)), zero());
      total = add(total, w);
      store_weights(E{}, s.weights, at + 16 * j, w);
    }
    float carry = first_lane(exp2_of(sub(splat(before), top)));
    s.top[r] = first_lane(top);
    s.carry[r] = carry;
    s.sum[r] = s.sum[r] * carry + sum_of_lanes(total);
  }
}

// ---------------------------------------------------------------------------- indexer

// Prefetches the keys of the next tile, two cache lines per step.
struct LinesAhead {
  const std::byte* next;
  const std::byte* end;
  void step() {
    if (next >= end) return;
    _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(next) + 64, _MM_HINT_T0);
    next += 128;
  }
};

// What a word of the keys' panel is multiplied with: a word of the query,
struct WordKeys {
  static constexpr int kColumns = 1;
  template <int H, class E>
  [[gnu::always_inline]] static void step(const uint32_t* q, int64_t stride, const uint32_t* b,
                                          F (&acc)[H][kSlice]) {
    W y[kSlice];
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j) y[j] = load_words(b + 16 * j);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      W x = splat_word(q + h * stride);
#pragma GCC unroll 4
      for (int j = 0; j < kSlice; ++j) acc[h][j] = E::step(acc[h][j], x, y[j]);
    }
  }
};
// or, where it is a pair of bf16, two: the panel is half as large, and nothing is widened in
// memory.
struct Bf16Keys {
  static constexpr int kColumns = 2;
  template <int H, class E>
  [[gnu::always_inline]] static void step(const uint32_t* q, int64_t stride, const uint32_t* b,
                                          F (&acc)[H][kSlice]) {
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j) {
      const W pair = load_words(b + 16 * j);
      const W even = lower_bf16(pair), odd = upper_bf16(pair);
#pragma GCC unroll 4
      for (int h = 0; h < H; ++h) {
        acc[h][j] = E::step(acc[h][j], splat_word(q + h * stride), even);
        acc[h][j] = E::step(acc[h][j], splat_word(q + h * stride + 1), odd);
      }
    }
  }
};

// Heads q[0 .. H) and vectors [first, first + kSlice) of the keys.
template <class E, class Keys, int H>
void index_heads(const IndexTile& t, const uint32_t* q, const float* weight, int first,
                 LinesAhead& ahead, F (&score)[4]) {
  F acc[H][kSlice];
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j) acc[h][j] = zero();
  const uint32_t* b = words_at(t.keys, 16 * first);
  for (int k = 0; k < t.words; k += Keys::kColumns, b += kPanelWidth) {
    ahead.step();
    Keys::template step<H, E>(q + k, t.words, b, acc);
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
    for (int j = 0; j < kSlice; ++j)
      score[first + j] = fmadd(vmax(acc[h][j], zero()), splat(weight[h]), score[first + j]);
}

template <class E, class Keys>
void index_tile_of(const IndexTile& t) {
  LinesAhead ahead = {t.ahead, t.ahead + t.ahead_bytes};
  for (int r = 0; r < t.rows; ++r) {
    F score[4] = {zero(), zero(), zero(), zero()};
    const uint32_t* q = words_at(t.q, r * t.ldq);
    const float* weight = t.head_weight + r * t.ldw;
    int h = 0;
    for (; h + kIndexHeads <= t.heads; h += kIndexHeads)
      for (int j = 0; j < 4; j += kSlice)
        index_heads<E, Keys, kIndexHeads>(t, q + h * t.words, weight + h, j, ahead, score);
    for (; h < t.heads; ++h)
      for (int j = 0; j < 4; j += kSlice)
        index_heads<E, Keys, 1>(t, q + h * t.words, weight + h, j, ahead, score);
    float* out = t.out + r * t.ldo;
    for (int j = 0; j < 4; ++j)
      store(out + 16 * j, t.key_scale ? mul(score[j], load(t.key_scale + 16 * j)) : score[j]);
  }
}

template <class E>
void index_tile(const IndexTile& t) {
  t.bf16_keys ? index_tile_of<E, Bf16Keys>(t) : index_tile_of<E, WordKeys>(t);
}

// ---------------------------------------------------------------------------- conversions

void to_bf16_scaled(const float* x, int64_t n, float scale, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16) store_bf16(out + i, fmadd(load(x + i), splat(scale), zero()));
}

void to_rounded(const float* x, int64_t n, float scale, float* out) {
  for (int64_t i = 0; i < n; i += 16)
    store(out + i, round_bf16(fmadd(load(x + i), splat(scale), zero())));
}

void to_f32(const uint16_t* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) store(out + i, load_bf16(x + i));
}

void dequantise_f32(const uint8_t* code, int64_t ld, int rows, float scale, float* out,
                    int64_t ldo) {
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < 128; i += 16)
      store(out + r * ldo + i, mul(load_fp8(code + r * ld + i), splat(scale)));
}
