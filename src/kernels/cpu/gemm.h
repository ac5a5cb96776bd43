// The inner kernels of the linear layers, one table per instruction set. The files that define them
// are compiled for processors that others do not have, so this header declares plain data and
// function pointers only: no inline function may be emitted there and picked for the whole program.
#pragma once

#include <cstdint>

namespace fathom {

struct GemmKernels {
  const char* name;
};

extern const GemmKernels kGemmAvx512;  // needs AVX-512 F/BW/VL/DQ, VBMI, BF16
extern const GemmKernels kGemmAvx2;    // needs AVX2, FMA, F16C

}  // namespace fathom
