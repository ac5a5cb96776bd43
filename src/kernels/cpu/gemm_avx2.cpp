#include "kernels/cpu/gemm.h"

namespace fathom {

const GemmKernels kGemmAvx2 = {.name = "avx2"};

}  // namespace fathom
