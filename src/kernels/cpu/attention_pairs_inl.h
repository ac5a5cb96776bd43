// Kernels on pairs of bf16 values, for processors that multiply them. Included like
// attention_kernels_inl.h, after it.

struct PairElement {
  static F step(F acc, W a, W b) { return dot_pairs(acc, a, b); }
};

inline void store_weights(PairElement, void* out, int64_t i, F w) {
  store_bf16(static_cast<uint16_t*>(out) + i, w);
}

template <int R>
void mix_pair_columns(const RowMix& m, int column) {
  F acc[R][4];
  float* c = m.c + column;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[r][j] = mul(load(c + r * m.ldc + 16 * j), splat(m.carry[r]));
  const uint32_t* a = words_at(m.a, 0);
  for (int p = 0; p < m.words; ++p) {
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
void mix_pairs_of(const RowMix& m) {
  if constexpr (R > 1) {
    if (m.rows < R) return mix_pairs_of<R - 1>(m);
  }
  for (int column = 0; column < m.columns; column += kPanelWidth) mix_pair_columns<R>(m, column);
}

// Up to kMaxMixRows rows.
void mix_pairs(const RowMix& m) { mix_pairs_of<kMaxMixRows>(m); }

void round_pairs(const float* c, int64_t ldc, int pairs, uint32_t* out, int64_t ldo) {
  for (int p = 0; p < pairs; ++p)
    for (int j = 0; j < kPanelWidth; j += 16)
      store_words(out + p * ldo + j,
                  round_words(load(c + 2 * p * ldc + j), load(c + (2 * p + 1) * ldc + j)));
}
