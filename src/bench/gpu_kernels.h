// Times each kernel family of the GPU alone, at the real model's shapes: `bench kernels`.
#pragma once

#include <string>

namespace fathom {

// Prints a table: see bench/cuda/kernel_bench.h. `only`: families or shapes that contain this text;
// empty: all. Throws Error in a build without CUDA.
void bench_gpu_kernels(const std::string& only);

}  // namespace fathom
