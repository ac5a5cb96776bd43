// Row operations (norms, activation, quantisation) for any vector width; see gemm_inl.h.

// e^x to about one unit in the last place: x = n ln 2 + r, a polynomial of r, times 2^n.
inline V::F exponential(V::F x) {
  // With the operands in this order, min and max return a NaN in x.
  x = V::min(V::set1(100.0f), V::max(V::set1(-105.0f), x));
  V::F n = V::round(V::mul(x, V::set1(1.44269504088896341f)));
  V::F r = V::fma(n, V::set1(-0.693359375f), x);
  r = V::fma(n, V::set1(2.12194440e-4f), r);
  V::F p = V::set1(1.9875691500e-4f);
  p = V::fma(p, r, V::set1(1.3981999507e-3f));
  p = V::fma(p, r, V::set1(8.3334519073e-3f));
  p = V::fma(p, r, V::set1(4.1665795894e-2f));
  p = V::fma(p, r, V::set1(1.6666665459e-1f));
  p = V::fma(p, r, V::set1(5.0000001201e-1f));
  V::F y = V::add(V::fma(p, V::mul(r, r), r), V::set1(1.0f));
  return V::scale_by_power(y, n);
}

void silu(const SiluJob& job) {
  for (int64_t row = 0; row < job.rows; ++row) {
    const float* gate = job.gate + row * job.stride;
    const float* up = job.up + row * job.stride;
    void* out = static_cast<uint8_t*>(job.out) + row * job.out_stride * (job.bf16 ? 2 : 4);
    for_vectors(job.columns, [&](auto load, auto store) {
      V::F g = load(gate, false), u = load(up, false);
      if (job.bf16) {
        g = V::round_bf16(g);
        u = V::round_bf16(u);
      }
      V::F denominator = V::add(V::set1(1.0f), exponential(V::sub(V::zero(), g)));
      store(out, job.bf16, V::mul(V::div(g, denominator), u));
    });
  }
}

// Nearest e4m3 value (ties to even) of v / scale, clamped to +-448.
inline V::F quantised(V::F v, V::F scale) {
  V::F q = V::div(v, scale);
  q = V::max(V::set1(-448.0f), V::min(V::set1(448.0f), q));
  return V::round_e4m3(q);
}

inline float greatest_magnitude(const PrepareJob& job, int64_t begin, int64_t n) {
  const uint8_t* x = static_cast<const uint8_t*>(job.x) + begin * (job.x_bf16 ? 2 : 4);
  V::F top = V::zero();
  // The maximum passes over NaN, as fmax does; the codes of NaN stay NaN.
  for_vectors(n, [&](auto load, auto) { top = V::max(V::abs(load(x, job.x_bf16)), top); });
  return V::greatest(top);
}

void prepare(const PrepareJob& job) {
  int in_size = job.x_bf16 ? 2 : 4, out_size = job.out_bf16 ? 2 : 4;
  const uint8_t* x = static_cast<const uint8_t*>(job.x);
  uint8_t* out = static_cast<uint8_t*>(job.out);
  for (int64_t begin = 0; begin < job.columns; begin += kBlock) {
    int64_t n = begin + kBlock < job.columns ? kBlock : job.columns - begin;
    V::F scale = V::set1(1.0f);
    if (job.group_scale) {
      float s = job.group_scale(greatest_magnitude(job, begin, n), job.ue8m0);
      if (job.scales) job.scales[begin / kBlock] = s;
      scale = V::set1(s);
    }
    const uint8_t* from = x + begin * in_size;
    uint8_t* to = out + begin * out_size;
    for_vectors(n, [&](auto load, auto store) {
      V::F v = load(from, job.x_bf16);
      if (job.group_scale) {
        v = quantised(v, scale);
        if (!job.scales) v = V::mul(v, scale);
      }
      store(to, job.out_bf16, v);
    });
  }
  if (!job.pad) return;
  int64_t padded = (job.columns + kStep - 1) / kStep * kStep;
  memset(out + job.columns * out_size, 0, (padded - job.columns) * out_size);
}

// Two passes: the sum of squares in 4 accumulators that depend on the row alone, then the scaling.
void norm(const NormJob& job) {
  V::F square[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int turn = 0;
  for_vectors(job.columns, [&](auto load, auto store) {
    V::F v = load(job.x, job.x_bf16);
    if (job.update) {
      v = V::add(v, load(job.update, job.x_bf16));
      if (job.x_bf16) v = V::round_bf16(v);
      store(job.sum, job.x_bf16, v);
    }
    square[turn] = V::fma(v, v, square[turn]);
    turn = (turn + 1) % 4;
  });
  float total = V::sum(V::add(V::add(square[0], square[1]), V::add(square[2], square[3])));
  double mean = static_cast<double>(total) / static_cast<double>(job.columns);
  V::F inverse = V::set1(static_cast<float>(1.0 / __builtin_sqrt(mean + job.eps)));
  const void* x = job.update ? job.sum : job.x;
  for_vectors(job.columns, [&](auto load, auto store) {
    V::F v = V::mul(load(x, job.x_bf16), inverse);
    store(job.out, job.out_bf16, V::mul(load(job.gain, false), v));
  });
}

void combine(const CombineJob& job) {
  for_vectors(job.columns, [&](auto load, auto store) {
    V::F sum = V::zero();
    for (int i = 0; i < job.parts; ++i)
      sum = V::fma(load(job.part[i], job.bf16), V::set1(job.weight[i]), sum);
    if (job.extra) sum = V::add(sum, load(job.extra, job.bf16));
    store(job.out, job.bf16, sum);
  });
}
