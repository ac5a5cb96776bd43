// Panels for many activation rows, for vectors of 8 lanes: every lane is one output, so no lanes
// are added. Included after product_f32_inl.h, whose sums these are bit for bit. There, lane j of a
// vector sums the columns that are j modulo 8, and at the end the lanes are added in a fixed tree.
// Here the columns are taken class by class: all that are 0 modulo 8, then all that are 1, and so
// on. Each class is summed from zero, and the 8 sums are added in the same tree.

constexpr int kOutputs = kStripRows / V::kLanes;  // vectors of outputs in a strip
constexpr int kOuterTileRows = 6;                 // x 2 vectors of outputs: 12 of 16 registers
// With fewer rows it does not pay to transpose the weights.
constexpr int kOuterRows = 24;
// Rows of 512 columns that stay in L2 (512 KiB) beside four panels of 32 KiB.
constexpr int kOuterRowBlock = 96;

// The panel is [class][vector of columns][16 outputs], and behind it a factor per block as in the
// other panels. `block` has 128 columns as pack_block leaves them.
inline void transpose_block(const float* block, int64_t vectors, int64_t at, int64_t count,
                            float* panel) {
  for (int64_t v = 0; v < count; ++v)
    for (int half = 0; half < kOutputs; ++half) {
      V::F x[V::kLanes];
#pragma GCC unroll 8
      for (int r = 0; r < V::kLanes; ++r) {
        const int64_t quad = half * (V::kLanes / kQuad) + r / kQuad;
        x[r] = V::load(block + ((quad * kBlockVectors + v) * kQuad + r % kQuad) * V::kLanes);
      }
      V::transpose(x);
#pragma GCC unroll 8
      for (int c = 0; c < V::kLanes; ++c)
        V::store(panel + (c * vectors + at + v) * kStripRows + half * V::kLanes, x[c]);
    }
}

template <WeightCode kCode>
void pack_outer_code(const Strip& s, int64_t k0, int depth, uint8_t* panel) {
  constexpr bool kFp8 = kCode == WeightCode::fp8;
  alignas(64) float values[kStripRows * kBlock];
  const int64_t vectors = (depth + kStep - 1) / kStep * kStep / V::kLanes;
  float* factor = factors_of(panel);
  int64_t at = 0;
  for (int64_t k = k0; k < k0 + depth; k += kBlock, at += kBlockVectors) {
    const int64_t end = k + kBlock < k0 + depth ? k + kBlock : k0 + depth;
    BlockCodes block(s, k);
    if (block.scaled || pack_block<kCode, false>(s, k, end, kBlockVectors, block, values))
      pack_block<kCode, kFp8>(s, k, end, kBlockVectors, block.careful(), values);
    *factor++ = block.factor;
    transpose_block(values, vectors, at, (end - k + kStep - 1) / kStep * kStep / V::kLanes,
                    reinterpret_cast<float*>(panel));
  }
}

void pack_outer(const Strip& strip, int64_t k0, int depth, uint8_t* panel) {
  switch (strip.code) {
    case WeightCode::fp8:
      return pack_outer_code<WeightCode::fp8>(strip, k0, depth, panel);
    case WeightCode::bf16:
      return pack_outer_code<WeightCode::bf16>(strip, k0, depth, panel);
    case WeightCode::f16:
      return pack_outer_code<WeightCode::f16>(strip, k0, depth, panel);
    default:
      return pack_outer_code<WeightCode::f32>(strip, k0, depth, panel);
  }
}

// One class of columns: `x` begins at its first one.
template <int kRows>
[[gnu::always_inline]] inline void multiply_class(const float* const (&x)[kRows], const float* w,
                                                  int64_t begin, int64_t end,
                                                  V::F (&a)[kRows][kOutputs]) {
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int o = 0; o < kOutputs; ++o) a[m][o] = V::zero();
  for (int64_t v = begin; v < end; ++v) {
    V::F wv[kOutputs];
#pragma GCC unroll 2
    for (int o = 0; o < kOutputs; ++o) wv[o] = V::load(w + v * kStripRows + o * V::kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const V::F xv = V::set1(x[m][v * V::kLanes]);
#pragma GCC unroll 2
      for (int o = 0; o < kOutputs; ++o) a[m][o] = V::fma(xv, wv[o], a[m][o]);
    }
  }
}

template <int kRows>
void tile_outer_rows(const TileJob& job, int row, WeightsAhead& ahead) {
  const int64_t vectors = int64_t{job.units} * 4 / V::kLanes;
  const int blocks = static_cast<int>((vectors + kBlockVectors - 1) / kBlockVectors);
  const float* panel = reinterpret_cast<const float*>(job.panel);
  const float* factor = reinterpret_cast<const float*>(job.panel + kPanelValueBytes);
  const float* const* x_scale = job.w_scale ? job.x_scale + row : nullptr;
  V::F total[V::kLanes][kRows * kOutputs];  // of each class
  for (int block = 0, end; block < blocks; block = end) {
    end = same_factor(factor, block, blocks, x_scale);
    const int64_t from = block * kBlockVectors, to = end < blocks ? end * kBlockVectors : vectors;
    for (int c = 0; c < V::kLanes; ++c) {
      ahead.step();
      const float* x[kRows];
      for (int m = 0; m < kRows; ++m)
        x[m] = reinterpret_cast<const float*>(job.x[row + m] + job.x_offset) + c;
      V::F a[kRows][kOutputs];
      multiply_class<kRows>(x, panel + c * vectors * kStripRows, from, to, a);
      if (block == 0)
        for (V::F& t : total[c]) t = V::zero();
      fold<kRows, kOutputs>(a, factor[block], x_scale, job.x_scale_offset + block,
                            x_scale ? job.w_scale[block] : 1.0f, total[c], kOutputs);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int o = 0; o < kOutputs; ++o) {
      const int i = m * kOutputs + o, first = o * V::kLanes;
      auto pair = [&](int c) { return V::add(total[c][i], total[c + 1][i]); };
      V::F sum = V::add(V::add(pair(0), pair(2)), V::add(pair(4), pair(6)));
      float* carry = job.carry + int64_t{row + m} * kStripRows + first;
      sum = V::add(job.first ? V::zero() : V::load(carry), sum);
      if (!job.last)
        V::store(carry, sum);
      else if (job.columns >= first + V::kLanes)
        store_from_float(job.out, job.out_bf16, (row + m) * job.out_stride + first, sum);
      else if (job.columns > first)
        store_part(job.out, job.out_bf16, (row + m) * job.out_stride + first, job.columns - first,
                   sum);
    }
}

template <int kMax>
void tile_outer_height(const TileJob& job, int row, int rows, WeightsAhead& ahead) {
  if constexpr (kMax > 1) {
    if (rows < kMax) return tile_outer_height<kMax - 1>(job, row, rows, ahead);
  }
  tile_outer_rows<kMax>(job, row, ahead);
}

void tile_outer(const TileJob& job) {
  const int tiles = (job.rows + kOuterTileRows - 1) / kOuterTileRows;
  WeightsAhead ahead(job, tiles * V::kLanes);
  for (int t = 0; t < tiles; ++t) {
    const int row = job.rows * t / tiles, rows = job.rows * (t + 1) / tiles - row;
    tile_outer_height<kOuterTileRows>(job, row, rows, ahead);
  }
}
