// Helpers of the kernels that are written once for any vector width (product_f32_inl.h,
// rows_inl.h). Included by the gemm_*.cpp files only, inside their anonymous namespace, after a
// struct V of vector operations: every function here exists once per instruction set, visible to
// that file only. No include guard, on purpose.

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

// Spreads the prefetches of the weights that are packed next over the tiles before them. All at
// once they would fill the queues between the caches and stall every load after them.
struct WeightsAhead {
  WeightsAhead(const TileJob& job, int steps)
      : data(job.ahead), stride(job.ahead_stride), lines(job.ahead ? job.ahead_lines : 0) {
    per_step = (lines + steps - 1) / steps;
  }
  void step(int steps = 1) {
    for (int i = 0; i < per_step * steps && next < lines; ++i, ++next)
      _mm_prefetch(reinterpret_cast<const char*>(data + next % kStripRows * stride +
                                                 next / kStripRows * int64_t{64}),
                   _MM_HINT_T0);
  }

  const uint8_t* data;
  int64_t stride;
  int lines, per_step = 0, next = 0;
};
