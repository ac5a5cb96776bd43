// Random values in the memory of the GPU: weights of `bench --random`, inputs of kernel timings.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fathom::cuda {

// Random data on the device: values of a counter-based generator, the same for the same seed.
void fill_bf16(void* to, int64_t count, float scale, uint64_t seed, cudaStream_t stream);
void fill_f32(float* to, int64_t count, float scale, uint64_t seed, cudaStream_t stream);
// Finite e4m3 codes of roughly normal values.
void fill_fp8(uint8_t* to, int64_t count, uint64_t seed, cudaStream_t stream);

}  // namespace fathom::cuda
