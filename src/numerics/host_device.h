// FATHOM_HD marks the rules of src/numerics/ for both compilers: one definition, two loops.
#pragma once

#if defined(__CUDACC__)
#define FATHOM_HD __host__ __device__
#else
#define FATHOM_HD
#endif
