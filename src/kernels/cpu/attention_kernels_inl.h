// Bodies of the kernels in attention_kernels.h, written on the small vector layer that the
// including file defines before it (F: 16 floats, W: 16 words). Included once per instruction set,
// inside namespace fathom and an anonymous namespace, so that nothing here is shared between the
// sets.

// What a product does with a word: a float32 fused multiply-add or a bf16 pair product.
struct FloatElement {
  static F step(F acc, W a, W b) { return fmadd(as_floats(a), as_floats(b), acc); }
};
struct PairElement {
  static F step(F acc, W a, W b) { return dot_pairs(acc, a, b); }
};

inline const uint32_t* words_at(const void* base, int64_t word) {
  return static_cast<const uint32_t*>(base) + word;
}

// ---------------------------------------------------------------------------- product

template <class E, int R>
void product_rows(const PanelProduct& g, int row) {
  F acc[R][4];
  float* c = g.c + row * g.ldc;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      acc[r][j] = g.carry ? mul(load(c + r * g.ldc + 16 * j), splat(g.carry[row + r])) : zero();
  const uint32_t* a = words_at(g.a, row * g.lda);
  const uint32_t* b = words_at(g.b, 0);
  for (int k = 0; k < g.words; ++k, b += g.ldb) {
    W b0 = load_words(b), b1 = load_words(b + 16), b2 = load_words(b + 32), b3 = load_words(b + 48);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      W x = splat_word(a + r * g.lda + k);
      acc[r][0] = E::step(acc[r][0], x, b0);
      acc[r][1] = E::step(acc[r][1], x, b1);
      acc[r][2] = E::step(acc[r][2], x, b2);
      acc[r][3] = E::step(acc[r][3], x, b3);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) store(c + r * g.ldc + 16 * j, acc[r][j]);
}

template <class E, int R>
void product_tail(const PanelProduct& g, int row) {
  if constexpr (R > 0) {
    if (g.rows - row == R) return product_rows<E, R>(g, row);
    product_tail<E, R - 1>(g, row);
  }
}

template <class E>
void product(const PanelProduct& g) {
  int row = 0;
  for (; row + kProductRows <= g.rows; row += kProductRows) product_rows<E, kProductRows>(g, row);
  product_tail<E, kProductRows - 1>(g, row);
}

// ---------------------------------------------------------------------------- mix

template <int R>
void mix_columns(const RowMix& m, int column) {
  F acc[R][4];
  float* c = m.c + column;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[r][j] = mul(load(c + r * m.ldc + 16 * j), splat(m.carry[r]));
  const uint32_t* a = words_at(m.a, 0);
  for (int p = 0; p < m.pairs; ++p) {
    const uint16_t* even = static_cast<const uint16_t*>(m.b[2 * p]) + column;
    const uint16_t* odd = static_cast<const uint16_t*>(m.b[2 * p + 1]) + column;
    W b[4];
    interleave(even, odd, b[0], b[1]);
    interleave(even + 32, odd + 32, b[2], b[3]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      W x = splat_word(a + r * m.lda + p);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[r][j] = dot_pairs(acc[r][j], x, b[j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) store(c + r * m.ldc + 16 * j, acc[r][j]);
}

template <int R>
void mix_of(const RowMix& m) {
  if constexpr (R > 1) {
    if (m.rows < R) return mix_of<R - 1>(m);
  }
  for (int column = 0; column < m.columns; column += kPanelWidth) mix_columns<R>(m, column);
}

void mix_rows(const RowMix& m) { mix_of<kMaxMixRows>(m); }

// ---------------------------------------------------------------------------- dots

// The 16 sums of a block of H heads x 16 / H rows: always 16 chains of additions, so that the
// latency of one is hidden by the others.
template <class E, int H>
void dot_block(const RowDots& d, int head, int row) {
  constexpr int R = 16 / H;
  F acc[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) acc[i] = zero();
  const uint32_t* q = words_at(d.q, head * d.ldq);
  for (int k = 0; k < d.words; k += 16) {
    W y[H];
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) y[h] = load_words(q + h * d.ldq + k);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      W x = load_words(words_at(d.rows[row + i], k));
#pragma GCC unroll 4
      for (int h = 0; h < H; ++h) acc[h * R + i] = E::step(acc[h * R + i], y[h], x);
    }
  }
  alignas(64) float sums[16];  // [head][row]
  lane_sums(acc, sums);
  for (int h = 0; h < H; ++h)
    __builtin_memcpy(d.out + (head + h) * d.ldo + row, sums + R * h, sizeof(float) * R);
}

template <class E, int H>
void dot_rows(const RowDots& d, int head) {
  for (int row = 0; row < d.count; row += 16 / H) dot_block<E, H>(d, head, row);
}

template <class E>
void dots(const RowDots& d) {
  int head = 0;
  for (; head + 4 <= d.heads; head += 4) dot_rows<E, 4>(d, head);
  for (; head + 2 <= d.heads; head += 2) dot_rows<E, 2>(d, head);
  if (head < d.heads) dot_rows<E, 1>(d, head);
}

// ---------------------------------------------------------------------------- softmax

// 2^x for x <= 0 to about one unit in the last place: a Taylor polynomial on [-1/2, 1/2]. Results
// below the least normal number come out as (nearly) nothing.
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
inline void store_weights(PairElement, void* out, int64_t i, F w) {
  store_bf16(static_cast<uint16_t*>(out) + i, w);
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

// Lines of what lies ahead, two a step.
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

template <class E, int H>
void index_heads(const IndexTile& t, const uint32_t* q, const float* weight, LinesAhead& ahead,
                 F (&score)[4]) {
  F acc[H][4];
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[h][j] = zero();
  const uint32_t* b = words_at(t.keys, 0);
  for (int k = 0; k < t.words; ++k, b += kPanelWidth) {
    W b0 = load_words(b), b1 = load_words(b + 16), b2 = load_words(b + 32), b3 = load_words(b + 48);
    ahead.step();
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      W x = splat_word(q + h * t.words + k);
      acc[h][0] = E::step(acc[h][0], x, b0);
      acc[h][1] = E::step(acc[h][1], x, b1);
      acc[h][2] = E::step(acc[h][2], x, b2);
      acc[h][3] = E::step(acc[h][3], x, b3);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      score[j] = fmadd(vmax(acc[h][j], zero()), splat(weight[h]), score[j]);
}

template <class E>
void index_tile(const IndexTile& t) {
  LinesAhead ahead = {t.ahead, t.ahead + t.ahead_bytes};
  for (int r = 0; r < t.rows; ++r) {
    F score[4] = {zero(), zero(), zero(), zero()};
    const uint32_t* q = words_at(t.q, r * t.ldq);
    const float* weight = t.head_weight + r * t.ldw;
    int h = 0;
    for (; h + kIndexHeads <= t.heads; h += kIndexHeads)
      index_heads<E, kIndexHeads>(t, q + h * t.words, weight + h, ahead, score);
    for (; h < t.heads; ++h) index_heads<E, 1>(t, q + h * t.words, weight + h, ahead, score);
    float* out = t.out + r * t.ldo;
    for (int j = 0; j < 4; ++j)
      store(out + 16 * j, t.key_scale ? mul(score[j], load(t.key_scale + 16 * j)) : score[j]);
  }
}

// ---------------------------------------------------------------------------- conversions

void round_pairs(const float* c, int64_t ldc, int pairs, uint32_t* out, int64_t ldo) {
  for (int p = 0; p < pairs; ++p)
    for (int j = 0; j < kPanelWidth; j += 16)
      store_words(out + p * ldo + j,
                  round_words(load(c + 2 * p * ldc + j), load(c + (2 * p + 1) * ldc + j)));
}

void to_bf16_scaled(const float* x, int64_t n, float scale, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16) store_bf16(out + i, fmadd(load(x + i), splat(scale), zero()));
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
