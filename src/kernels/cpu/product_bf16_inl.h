// Products of bf16 activations with panels of bf16 weights, for processors that have an instruction
// for them. Included like gemm_inl.h, after it; V has 16 lanes.

// Adds the lanes of 4 accumulators: outputs of consecutive rows, in order.
inline V::F add_lanes(const V::F* a) {
  V::F low = V::add(V::unpack_low(a[0], a[1]), V::unpack_high(a[0], a[1]));
  V::F high = V::add(V::unpack_low(a[2], a[3]), V::unpack_high(a[2], a[3]));
  return V::add(V::unpack_low_pairs(low, high), V::unpack_high_pairs(low, high));
}

inline void store_outputs(void* out, bool bf16, int64_t at, int columns, V::F v) {
  if (columns >= V::kLanes)
    store_from_float(out, bf16, at, v);
  else
    store_part(out, bf16, at, columns, v);
}

// kRows activation rows against a strip.
template <class Dot, int kRows>
inline void tile_rows(const TileJob& job, int row, WeightsAhead& weights) {
  const uint8_t* x[kRows];
  const uint8_t* x_next[kRows];
  for (int m = 0; m < kRows; ++m) {
    x[m] = job.x[row + m] + job.x_offset;
    int next = row + kRows + m;
    x_next[m] = job.x[next < job.rows ? next : job.rows - 1] + job.x_offset;
  }
  const uint8_t* w = job.panel;
  V::F sum[kRows];
  float* carry = job.carry + int64_t{row} * kStripRows;
  for (int m = 0; m < kRows; ++m) sum[m] = job.first ? V::zero() : V::load(carry + m * kStripRows);

  int block = job.w_scale ? Dot::kUnitsPerBlock : job.units;
  for (int begin = 0; begin < job.units; begin += block) {
    int end = begin + block < job.units ? begin + block : job.units;
    V::F a[kRows][4];
    for (int m = 0; m < kRows; ++m)
      for (int z = 0; z < 4; ++z) a[m][z] = V::zero();
    for (int64_t u = begin; u < end;) {
      weights.step();
      for (int m = 0; m < kRows; ++m)  // and the next tile's activations, one line per row
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
      store_outputs(job.out, job.out_bf16, (row + m) * job.out_stride, job.columns, sum[m]);
    else
      V::store(carry + m * kStripRows, sum[m]);
  }
}

// All rows, in tiles of nearly equal height: the register file holds V::kTileRows.
template <class Dot>
void tile(const TileJob& job) {
  int tiles = (job.rows + V::kTileRows - 1) / V::kTileRows;
  WeightsAhead weights(job, tiles * ((job.units + 3) / 4));
  for (int t = 0; t < tiles; ++t) {
    int row = job.rows * t / tiles, rows = job.rows * (t + 1) / tiles - row;
    switch (rows) {
      case 1:
        tile_rows<Dot, 1>(job, row, weights);
        break;
      case 2:
        tile_rows<Dot, 2>(job, row, weights);
        break;
      case 3:
        tile_rows<Dot, 3>(job, row, weights);
        break;
      case 4:
        tile_rows<Dot, 4>(job, row, weights);
        break;
      case 5:
        tile_rows<Dot, 5>(job, row, weights);
        break;
      default:
        tile_rows<Dot, 6>(job, row, weights);
    }
  }
}
