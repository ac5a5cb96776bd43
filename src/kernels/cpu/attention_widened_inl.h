// FP8 codes as bf16, for kernels that widen every operand to float32. Included like
// attention_kernels_inl.h, after it; the including file has store_upper_halves(), which stores the
// upper half of each word.

// Codes times a power of two are exact in bf16 if the products are normal numbers, so that nothing
// need be rounded. Returns false if a code is NaN.
bool dequantise_exactly(const uint8_t* code, int64_t ld, int rows, float scale, uint16_t* out,
                        int64_t ldo) {
  const F factor = splat(256.0f * scale);  // codes are read as halves
  __m256i seen = _mm256_setzero_si256();
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < 128; i += 32) {
      F w[2];
      load_halves(code + r * ld + i, w, seen);
      store_upper_halves(out + r * ldo + i, mul(w[0], factor));
      store_upper_halves(out + r * ldo + i + 16, mul(w[1], factor));
    }
  return !fp8_nan_seen(seen);
}

void dequantise_bf16(const uint8_t* code, int64_t ld, int rows, float scale, uint16_t* out,
                     int64_t ldo) {
  uint32_t bits;
  __builtin_memcpy(&bits, &scale, 4);
  const bool exact = (bits & 0x807FFFFF) == 0 && scale > 0x1p-100f && scale < 0x1p100f;
  if (exact && dequantise_exactly(code, ld, rows, scale, out, ldo)) return;
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < 128; i += 16)
      store_bf16(out + r * ldo + i, mul(load_fp8(code + r * ld + i), splat(scale)));
}
