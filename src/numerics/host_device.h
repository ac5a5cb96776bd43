// FATHOM_HD marks functions that nvcc compiles for host and GPU, so that a rule of src/numerics/
// has one definition.
#pragma once

#if defined(__CUDACC__)
#define FATHOM_HD __host__ __device__
#else
#define FATHOM_HD
#endif
