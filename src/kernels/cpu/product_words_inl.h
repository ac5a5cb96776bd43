// Products of few activation rows with weights in words (QWeight::words): every lane is one output.
// So no lanes are added, and one shift and one mask expand a code in all lanes. Included after
// product_f32_inl.h, whose sums these are bit for bit. There, lane j sums the columns that are j
// modulo kLanes, and at the end the lanes are added in a fixed tree. Here each such class of
// columns has a sum of its own, and the sums are added in the same tree.
//
// Lifting. FP8 codes are put into the exponent and mantissa of a float32 without a correction of
// the exponent: 2^-120 of their values. The activations are multiplied by 2^112 before ("lifted"),
// so products are 2^-8 of their values, as they are with codes read as half precision. Both numbers
// are exact, subnormal codes too, and a fused multiplication and addition rounds once: nothing is
// lost. Activations of 2^16 and more would leave the range of float32. Then, and under scales that
// must be applied to every weight, codes are multiplied by a power of two in registers instead.

constexpr float kLift = 0x1p112f, kMostLifted = 0x1p16f;
constexpr int kOutputVectors = kStripRows / V::kLanes;
constexpr int64_t kWordLine = int64_t{kStripRows} * 4;  // bytes of a word of every row
constexpr int64_t kWordsAhead = 1024;                   // bytes prefetched ahead

template <WeightCode kCode>
constexpr int64_t kCycleBytes = int64_t{V::kLanes} * kStripRows* size_of_code(kCode);

// The weights of two classes of columns, a unit, are expanded at a time: of FP8, every second code
// of a word. A unit's word, counted from the beginning of a cycle of kLanes columns, its first
// class, and the distance to the other one:
template <WeightCode kCode>
struct Unit {
  static constexpr bool kFp8 = kCode == WeightCode::fp8;
  static constexpr int kCount = V::kLanes / 2;  // in a cycle
  static constexpr int kApart = kFp8 ? 2 : 1;
  static constexpr int word(int unit) { return kFp8 ? unit / 2 : unit; }
  static constexpr int first(int unit) { return kFp8 ? unit / 2 * 4 + unit % 2 : 2 * unit; }

  template <bool kOdd>
  [[gnu::always_inline]] static void expand(const uint8_t* p, V::F (&w)[2]) {
    const V::Words x = V::load_words(p);
    if constexpr (kFp8)
      V::half_of_codes<kOdd>(x, w);
    else
      w[0] = V::lower_bf16(x), w[1] = V::upper_bf16(x);
  }
};

// The sums of kUnits units: [unit][class of the unit][vector of outputs][activation row].
template <int kUnits, int kOutputs, int kRows>
using UnitSums = V::F[kUnits][2][kOutputs][kRows];

// Calls f(unit, class of the unit, vector of outputs, activation row) for every sum.
template <int kUnits, int kOutputs, int kRows, class F>
[[gnu::always_inline]] inline void for_each_sum(const F& f) {
#pragma GCC unroll 4
  for (int u = 0; u < kUnits; ++u)
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
#pragma GCC unroll 2
      for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) f(u, i, o, m);
}

// Adds the products of `cycles` cycles of columns. `p` and `x` begin at the first unit's word and
// class.
template <WeightCode kCode, bool kCareful, bool kOdd, int kUnits, int kOutputs, int kRows>
[[gnu::always_inline]] inline void sum_units(const uint8_t* p, const float* x, int64_t cycles,
                                             const BlockCodes& block, bool fetch,
                                             UnitSums<kUnits, kOutputs, kRows>& a) {
  using U = Unit<kCode>;
#pragma GCC unroll 2
  for (int64_t v = 0; v < cycles; ++v, p += kCycleBytes<kCode>, x += kRows * V::kLanes) {
    if (fetch)
      for (int64_t line = 0; line < kCycleBytes<kCode>; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(p + kWordsAhead + line), _MM_HINT_T0);
#pragma GCC unroll 4
    for (int u = 0; u < kUnits; ++u)
#pragma GCC unroll 2
      for (int o = 0; o < kOutputs; ++o) {
        const uint8_t* word = p + U::word(u + kOdd) * kWordLine + o * int64_t{sizeof(V::F)};
        V::F w[2];
        // NOLINTNEXTLINE(misc-redundant-expression): the template arguments differ.
        (u + kOdd) % 2 ? U::template expand<true>(word, w) : U::template expand<false>(word, w);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          if constexpr (kCareful) {
            w[i] = V::mul(V::mul(w[i], V::set1(0x1p120f)), V::set1(block.scale));
            if (block.round) w[i] = V::round_bf16(w[i]);
          }
          const float* at = x + U::first(u + kOdd) - kOdd + i * U::kApart;
#pragma GCC unroll 4
          for (int m = 0; m < kRows; ++m)
            a[u][i][o][m] = V::fma(V::set1(at[m * V::kLanes]), w[i], a[u][i][o][m]);
        }
      }
  }
}

// A strip and kRows activation rows.
template <WeightCode kCode, int kRows>
struct WordStream {
  using U = Unit<kCode>;
  // What is kept in registers at a time, V::kWordSums at most.
  static constexpr int kOutputs = kOutputVectors * kRows * 2 <= V::kWordSums ? kOutputVectors : 1;
  static constexpr int kMost = V::kWordSums / (2 * kOutputs * kRows);
  static constexpr int kUnits = kMost >= 4 ? 4 : kMost >= 2 ? 2 : 1;
  using Totals = V::F[kOutputVectors][kRows][V::kLanes];

  // Blocks [block, end) of the pass that begins at column `pass`, for some units and the outputs
  // from vector `o` on; their sums are multiplied by `factor` and added to the totals.
  template <bool kCareful, bool kOdd>
  static void run(const StreamJob& job, const float* x, int64_t pass, const BlockCodes* codes,
                  int block, int end, int unit, int o, const float* factor, Totals& total) {
    UnitSums<kUnits, kOutputs, kRows> a;
    for_each_sum<kUnits, kOutputs, kRows>(
        [&](int u, int i, int v, int m) { a[u][i][v][m] = V::zero(); });
    const uint8_t* p = job.strip.words + U::word(unit) * kWordLine + o * int64_t{sizeof(V::F)};
    for (int stop; block < end; block = stop) {
      stop = kCareful ? block + 1 : end;
      const int64_t from = pass + block * kBlock;
      const int64_t to =
          pass + stop * kBlock < job.strip.columns ? pass + stop * kBlock : job.strip.columns;
      const int64_t cycle = from / V::kLanes;
      sum_units<kCode, kCareful, kOdd, kUnits, kOutputs, kRows>(
          p + cycle * kCycleBytes<kCode>, x + from * kRows + U::first(unit), to / V::kLanes - cycle,
          codes[block].careful(), unit == 0 && o == 0, a);
    }
    for_each_sum<kUnits, kOutputs, kRows>([&](int u, int i, int v, int m) {
      V::F& t = total[o + v][m][U::first(unit + u) + i * U::kApart];
      t = V::fma(a[u][i][v][m], V::set1(factor[m]), t);
    });
  }

  template <bool kCareful>
  static void pass(const StreamJob& job, const float* x, int64_t begin, const BlockCodes* codes,
                   const float* factor, int blocks, Totals& total) {
    const float* const* x_scale = job.w_scale ? job.x_scale : nullptr;
    for (int block = 0, end; block < blocks; block = end) {
      end = same_factor(factor, block, blocks, x_scale);
      float by_row[kRows];
      const int64_t at = begin / kBlock + block;
      for (int m = 0; m < kRows; ++m)
        by_row[m] = x_scale ? factor[block] * (x_scale[m][at] * job.w_scale[at]) : factor[block];
      for (int o = 0; o < kOutputVectors; o += kOutputs)
        for (int unit = 0; unit < U::kCount; unit += kUnits) {
          if (U::kFp8 && unit % 2 == 1)
            run<kCareful, true>(job, x, begin, codes, block, end, unit, o, by_row, total);
          else
            run<kCareful, false>(job, x, begin, codes, block, end, unit, o, by_row, total);
        }
    }
  }

  static void strip(const StreamJob& job) {
    constexpr int kBlocks = kDepth / kBlock;
    const Strip& s = job.strip;
    V::F sum[kOutputVectors][kRows];
    for (auto& rows : sum)
      for (V::F& v : rows) v = V::zero();
    for (int64_t begin = 0; begin < s.columns; begin += kDepth) {
      BlockCodes codes[kBlocks];
      float factor[kBlocks];
      int blocks = 0;
      bool careful = kCode == WeightCode::fp8 && job.x_lifted == nullptr;
      for (int64_t k = begin; blocks < kBlocks && k < s.columns; k += kBlock, ++blocks) {
        codes[blocks] = BlockCodes(s, k);
        factor[blocks] = codes[blocks].factor;
        careful |= codes[blocks].scaled;
      }
      Totals total;
      for (auto& rows : total)
        for (auto& classes : rows)
          for (V::F& t : classes) t = V::zero();
      const bool lifted = kCode == WeightCode::fp8 && !careful;
      const float* x = reinterpret_cast<const float*>(lifted ? job.x_lifted : job.x);
      if (careful)
        pass<kCode == WeightCode::fp8>(job, x, begin, codes, factor, blocks, total);
      else
        pass<false>(job, x, begin, codes, factor, blocks, total);
      for (int o = 0; o < kOutputVectors; ++o)
        for (int m = 0; m < kRows; ++m)
          sum[o][m] = V::add(sum[o][m], V::sum_in_lane_order(total[o][m]));
    }
    for (int m = 0; m < kRows; ++m)
      for (int o = 0; o < kOutputVectors; ++o)
        store_from_float(job.out, job.out_bf16, m * job.out_stride + o * V::kLanes, sum[o][m]);
  }
};

template <WeightCode kCode, int kMax>
void stream_words_rows(const StreamJob& job) {
  if constexpr (kMax > 1) {
    if (job.rows < kMax) return stream_words_rows<kCode, kMax - 1>(job);
  }
  WordStream<kCode, kMax>::strip(job);
}

void stream_f32(const StreamJob& job) {
  if (job.strip.words == nullptr) return stream_strip(job);
  return job.strip.code == WeightCode::fp8
             ? stream_words_rows<WeightCode::fp8, kStreamRowsF32>(job)
             : stream_words_rows<WeightCode::bf16, kStreamRowsF32>(job);
}

bool lift(const float* x, int64_t n, float* to) {
  // The maximum passes over NaN, which lifting does not change.
  V::F top = V::zero();
  for_vectors(n, [&](auto load, auto store) {
    const V::F v = load(x, false);
    top = V::max(V::abs(v), top);
    store(to, false, V::mul(v, V::set1(kLift)));
  });
  return V::greatest(top) < kMostLifted;
}
