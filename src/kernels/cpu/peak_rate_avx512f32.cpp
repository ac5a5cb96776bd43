#include <immintrin.h>

#include "kernels/cpu/peak_rate.h"

namespace fathom {
namespace {

#include "kernels/cpu/peak_rate_avx512_inl.h"

constexpr PeakProduct kFma = {"vfmadd, 512 bits", f32, kSums * 16 * 2};

}  // namespace

// No bf16 products: bf16 inputs are widened and multiplied as float32.
const PeakKernels kPeakAvx512F32 = {.name = "avx512f32", .read = read, .bf16 = kFma, .f32 = kFma};

}  // namespace fathom
