#include <algorithm>

#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/prim/random_fill.h"
#include "numerics/fp8.h"

namespace fathom::cuda {
namespace {

__device__ uint32_t mix(uint64_t x) {  // splitmix64's finaliser
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return static_cast<uint32_t>(x >> 32);
}

// Roughly normal with unit variance: the centred and scaled sum of four uniform bytes.
__device__ float normal(uint64_t seed, int64_t i) {
  uint32_t r = mix(seed * 0x9E3779B97F4A7C15ull + static_cast<uint64_t>(i));
  int sum = static_cast<int>(r & 255) + static_cast<int>(r >> 8 & 255) +
            static_cast<int>(r >> 16 & 255) + static_cast<int>(r >> 24) - 510;
  return static_cast<float>(sum) * (1.0f / 147.8f);
}

template <class T, class Convert>
__global__ void fill_kernel(T* to, int64_t count, uint64_t seed, Convert convert) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    to[i] = convert(normal(seed, i));
}

struct ToBf16 {
  float scale;
  __device__ Bf16 operator()(float x) const { return to_bf16(x * scale); }
};
struct ToF32 {
  float scale;
  __device__ float operator()(float x) const { return x * scale; }
};
struct ToFp8 {
  __device__ uint8_t operator()(float x) const { return float_to_fp8(x * 64.0f); }
};

template <class T, class Convert>
void fill(T* to, int64_t count, uint64_t seed, Convert convert, cudaStream_t stream) {
  const int64_t blocks = std::min<int64_t>((count + 255) / 256, 132 * 16);
  fill_kernel<<<static_cast<unsigned>(std::max<int64_t>(1, blocks)), 256, 0, stream>>>(
      to, count, seed, convert);
  FATHOM_CUDA(cudaGetLastError());
}

}  // namespace

void fill_bf16(void* to, int64_t count, float scale, uint64_t seed, cudaStream_t stream) {
  fill(static_cast<Bf16*>(to), count, seed, ToBf16{scale}, stream);
}
void fill_f32(float* to, int64_t count, float scale, uint64_t seed, cudaStream_t stream) {
  fill(to, count, seed, ToF32{scale}, stream);
}
void fill_fp8(uint8_t* to, int64_t count, uint64_t seed, cudaStream_t stream) {
  fill(to, count, seed, ToFp8{}, stream);
}

}  // namespace fathom::cuda
