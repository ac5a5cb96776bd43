// Loops of peak_rate.h for every processor with AVX-512. Included inside anonymous namespaces only.

// Four streams a page apart: with a single one the prefetcher of a core, which stops at the page's
// end, leaves part of the bandwidth unused.
uint64_t read(const void* data, int64_t bytes) {
  const auto* p = static_cast<const char*>(data);
  const int64_t quarter = bytes / 4;
  __m512i sum[4] = {};
  for (int64_t at = 0; at < quarter; at += 64)
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s)
      sum[s] = _mm512_xor_si512(sum[s], _mm512_load_si512(p + s * quarter + at));
  sum[0] = _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]));
  alignas(64) uint64_t words[8];
  _mm512_store_si512(words, sum[0]);
  return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}

// Summed in memory: GCC 12 warns inside its own _mm512_reduce_add_ps.
float total(const __m512* sums, int n) {
  __m512 sum = sums[0];
  for (int i = 1; i < n; ++i) sum = _mm512_add_ps(sum, sums[i]);
  alignas(64) float lanes[16];
  _mm512_store_ps(lanes, sum);
  float result = 0;
  for (float lane : lanes) result += lane;
  return result;
}

// 24 accumulators: two instructions a cycle at a latency of up to 12 cycles.
constexpr int kSums = 24;

// All zeros, but unknown to the compiler, which would otherwise compute equal sums only once.
void start(__m512 (&sum)[kSums]) {
#pragma GCC unroll 32
  for (__m512& s : sum) {
    s = _mm512_setzero_ps();
    asm volatile("" : "+v"(s));
  }
}

float f32(int64_t rounds) {
  __m512 sum[kSums];
  start(sum);
  __m512 a = _mm512_set1_ps(0x1p-20F), b = a;
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
  }
  return total(sum, kSums);
}
