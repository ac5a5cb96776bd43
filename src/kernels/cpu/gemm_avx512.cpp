#include "kernels/cpu/gemm.h"

namespace fathom {

const GemmKernels kGemmAvx512 = {.name = "avx512"};

}  // namespace fathom
