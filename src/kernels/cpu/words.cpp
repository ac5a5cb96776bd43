#include "kernels/cpu/words.h"

#include <cstring>

namespace fathom {
namespace {

// Codes below 2^-6 are subnormal float32 numbers on their way into a product, which costs some
// processors a hundred cycles for a vector that has one. Of weights that fill the range of their
// blocks' scales one in thousands is so small.
constexpr int64_t kMostSubnormals = 256;  // one code in so many

bool fit_for_words(const QWeight& w, bool any_magnitude) {
  int64_t subnormal = 0;
  for (int64_t r = 0; r < w.rows; ++r) {
    const uint8_t* code = w.row<uint8_t>(r);
    for (int64_t c = 0; c < w.cols; ++c) {
      const int magnitude = code[c] & 0x7F;
      if (magnitude == 0x7F) return false;
      subnormal += magnitude > 0 && magnitude < 8;
    }
  }
  return any_magnitude || subnormal * kMostSubnormals <= w.rows * w.cols;
}

}  // namespace

int64_t words_bytes(const QWeight& w) {
  if (w.empty() || !(w.is_fp8() || w.dtype == DType::bf16)) return 0;
  if (w.row_offset % kWordRows != 0 || w.cols % kWordColumns != 0) return 0;
  return w.rows / kWordRows * kWordRows * w.cols * static_cast<int64_t>(size_of(w.dtype));
}

bool add_words(QWeight& w, std::byte* to, bool any_magnitude) {
  if (words_bytes(w) == 0 || (w.is_fp8() && !fit_for_words(w, any_magnitude))) return false;
  constexpr int64_t kWord = 4;
  const int64_t size = static_cast<int64_t>(size_of(w.dtype)), stride = w.stride() * size;
  const std::byte* rows = static_cast<const std::byte*>(w.data);
  w.words = reinterpret_cast<const uint8_t*>(to);
  for (int64_t strip = 0; strip < w.rows / kWordRows; ++strip, rows += kWordRows * stride)
    for (int64_t at = 0; at < w.cols * size; at += kWord)
      for (int r = 0; r < kWordRows; ++r, to += kWord)
        std::memcpy(to, rows + r * stride + at, static_cast<size_t>(kWord));
  return true;
}

}  // namespace fathom
