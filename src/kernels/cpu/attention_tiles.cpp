// Loading and storing rows for the attention kernels: weights, cache rows, results.
#include <cstring>

#include "kernels/cpu/attention_ops.h"
#include "kernels/cpu/rows.h"

namespace fathom {

// Rows [row, row + rows) of a weight with kLatent columns, in the element type.
void AttentionOps::load_weights(const QWeight& w, int64_t row, int rows, uint32_t* out) const {
  constexpr int kCols = KernelDims::kLatent;
  const AttentionKernels& k = attention_;
  const int64_t count = int64_t{rows} * kCols;
  float* out_f32 = reinterpret_cast<float*>(out);
  uint16_t* out_bf16 = reinterpret_cast<uint16_t*>(out);
  switch (w.dtype) {
    case DType::fp8_e4m3:
      for (int r = 0; r < rows;) {
        // Rows up to the end of their block share their scales.
        int block_left = kFp8Block - static_cast<int>((row + r + w.row_offset) % kFp8Block);
        int n = std::min(rows - r, block_left);
        const float* scale = w.scales_of_row(row + r);
        for (int c = 0; c < kCols; c += kFp8Block) {
          const uint8_t* code = w.row<uint8_t>(row + r) + c;
          int64_t at = int64_t{r} * kCols + c;
          if (wide_)
            k.dequantise_f32(code, kCols, n, scale[c / kFp8Block], out_f32 + at, kCols);
          else
            k.dequantise_bf16(code, kCols, n, scale[c / kFp8Block], out_bf16 + at, kCols);
        }
        r += n;
      }
      if (wide_ && !exact_ && !w.pow2_scale) k.to_rounded(out_f32, count, 1.0f, out_f32);
      return;
    case DType::bf16:
      if (wide_)
        k.to_f32(w.row<uint16_t>(row), count, out_f32);
      else
        std::memcpy(out, w.row<uint16_t>(row), static_cast<size_t>(count) * 2);
      return;
    case DType::f32:
      if (exact_)
        std::memcpy(out, w.row<float>(row), static_cast<size_t>(count) * 4);
      else
        round_words(w.row<float>(row), count, out);
      return;
    default:
      for (int64_t i = 0; i < count; ++i) {
        float x = weight_at(w, row + i / kCols, i % kCols);
        if (wide_)
          out_f32[i] = rounded(exact_ ? DType::f32 : DType::bf16, x);
        else
          out_bf16[i] = to_bf16(x).bits;
      }
  }
}

// Whether cached rows can be read where they lie.
bool AttentionOps::lies_ready(const KvView& kv) const {
  return kv.latent_format == KvFormat::bf16 || (exact_ && kv.latent_format == KvFormat::f32);
}

// A cached row: in place if it needs no conversion, otherwise converted into `scratch`. FP8 values
// are rounded to bf16 after scaling (exact for power-of-two scales) unless the numerics are exact.
AttentionOps::LatentRow AttentionOps::latent_row(const KvView& kv, int64_t row,
                                                 uint32_t* scratch) const {
  constexpr int kLatent = KernelDims::kLatent, kRope = KernelDims::kRope;
  const AttentionKernels& k = attention_;
  const std::byte* p = kv.latent_row(row);
  if (lies_ready(kv)) return {p, kv.latent_format == KvFormat::bf16};
  float* out_f32 = reinterpret_cast<float*>(scratch);
  uint16_t* out_bf16 = reinterpret_cast<uint16_t*>(scratch);
  if (kv.latent_format == KvFormat::f32) {
    k.to_bf16(reinterpret_cast<const float*>(p), KernelDims::kRow, 1.0f, out_bf16);
    return {scratch, true};
  }
  const LatentRowFp8* fp8 = reinterpret_cast<const LatentRowFp8*>(p);
  for (int g = 0; g < kLatent / kFp8Block; ++g) {
    const uint8_t* code = fp8->code + g * kFp8Block;
    if (exact_)
      k.dequantise_f32(code, 0, 1, fp8->scale[g], out_f32 + g * kFp8Block, 0);
    else
      k.dequantise_bf16(code, 0, 1, fp8->scale[g], out_bf16 + g * kFp8Block, 0);
  }
  if (exact_)
    k.to_f32(&fp8->rope[0].bits, kRope, out_f32 + kLatent);
  else
    std::memcpy(out_bf16 + kLatent, fp8->rope, kRope * sizeof(Bf16));
  return {scratch, !exact_};
}

// A cached row in words of the element type.
const void* AttentionOps::latent_words(const KvView& kv, int64_t row, uint32_t* scratch) const {
  if (!wide_) return latent_row(kv, row, scratch).data;
  uint32_t narrow[KernelDims::kRow];
  const LatentRow from = latent_row(kv, row, exact_ ? scratch : narrow);
  if (!from.bf16) return from.data;
  attention_.to_f32(static_cast<const uint16_t*>(from.data), KernelDims::kRow,
                    reinterpret_cast<float*>(scratch));
  return scratch;
}

// n elements of a row of a tensor as words of the element type.
void AttentionOps::load_words(Tensor x, int token, int64_t element, int n, uint32_t* out) const {
  const void* from = element_at(x, token, element);
  if (wide_ && x.dtype == DType::bf16)
    attention_.to_f32(static_cast<const uint16_t*>(from), n, reinterpret_cast<float*>(out));
  else
    std::memcpy(out, from, static_cast<size_t>(words(n)) * sizeof(uint32_t));
}

// The same for several rows, which are used in place if they are in the element type already.
const void* AttentionOps::query_words(Tensor q, int token, int rows, int64_t element, int n,
                                      uint32_t* scratch, int64_t& stride) const {
  if (!wide_ || exact_) {
    stride = words(q.row_stride);
    return element_at(q, token, element);
  }
  stride = n;
  for (int r = 0; r < rows; ++r) load_words(q, token + r, element, n, scratch + int64_t{r} * n);
  return scratch;
}

// Sums rounded to what the numerics compute with, in words of the element type.
void AttentionOps::round_words(const float* x, int64_t n, uint32_t* out) const {
  if (wide_ && !exact_)
    attention_.to_rounded(x, n, 1.0f, reinterpret_cast<float*>(out));
  else
    store_scaled(out, x, n, 1.0f);
}

// Stores x * scale, rounded to the type of activations. The added zero turns -0 into +0: whether a
// key tile of zero weight was visited must not show in the result.
void AttentionOps::store_scaled(void* out, const float* x, int64_t n, float scale) const {
  if (!exact_) return attention_.to_bf16(x, n, scale, static_cast<uint16_t*>(out));
  float* to = static_cast<float*>(out);
  for (int64_t i = 0; i < n; ++i) to[i] = x[i] * scale + 0.0f;
}

}  // namespace fathom
