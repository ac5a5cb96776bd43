// What tests of GPU kernels share: a fixture that skips without a GPU, arrays that exist on both
// sides, random inputs, and the bounds that follow from the number formats.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "kernels/cuda/prim/launch.h"
#include "numerics/bf16.h"
#include "numerics/cache_rows.h"
#include "numerics/fp8.h"
#include "tensor/buffer.h"

namespace fathom::cuda {

// V3.2's attention widths, which the kernels are compiled for.
inline constexpr int kLatent = KernelDims::kLatent, kRope = KernelDims::kRope;
inline constexpr int kNope = KernelDims::kNope, kValue = KernelDims::kValue, kHead = kNope + kRope;

// Overwrites device memory before anything launched later can touch it: the streams of kernels do
// not wait for the default one.
inline void fill_bytes(void* to, int value, size_t bytes) {
  FATHOM_CUDA(cudaMemset(to, value, bytes));
  FATHOM_CUDA(cudaStreamSynchronize(nullptr));
}

// Memory on the GPU with the bytes of a host vector. Fresh memory is poisoned: 0xFF bytes are NaN
// in every float format used and -1 as integers, so what a kernel leaves out shows.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count)
      : count_(count), buffer_(std::max<size_t>(16, count * sizeof(T)), MemoryKind::device) {
    fill_bytes(buffer_.data(), 0xFF, buffer_.size());
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) { upload(host); }

  T* data() const { return reinterpret_cast<T*>(buffer_.data()); }
  size_t size() const { return count_; }
  void upload(const std::vector<T>& host) {
    FATHOM_CUDA(cudaMemcpy(data(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> download() const {
    std::vector<T> host(count_);
    FATHOM_CUDA(cudaMemcpy(host.data(), data(), count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  void poison() { fill_bytes(buffer_.data(), 0xFF, buffer_.size()); }

 private:
  size_t count_;
  Buffer buffer_;
};

// Base of the GPU tests: a stream and a workspace, or a skipped test that says why.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    cudaDeviceProp p{};
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      cudaGetLastError();
      GTEST_SKIP() << "no GPU";
    }
    FATHOM_CUDA(cudaGetDeviceProperties(&p, 0));
    if (p.major != 9 || p.minor != 0) GTEST_SKIP() << p.name << " is not an H100 or H200";
    // One that waits for the default stream, on which tests fill and poison memory.
    FATHOM_CUDA(cudaStreamCreate(&launch.stream));
    launch.sms = p.multiProcessorCount;
  }
  void TearDown() override {
    if (launch.stream) {
      EXPECT_EQ(cudaStreamSynchronize(launch.stream), cudaSuccess);
      EXPECT_EQ(cudaGetLastError(), cudaSuccess);
      cudaStreamDestroy(launch.stream);
    }
  }
  void give_workspace(size_t bytes) {
    workspace_ = Buffer(std::max<size_t>(bytes, 16), MemoryKind::device);
    fill_bytes(workspace_.data(), 0xFF, workspace_.size());
    launch.workspace = workspace_.data();
    launch.workspace_bytes = workspace_.size();
  }
  void synchronize() { FATHOM_CUDA(cudaStreamSynchronize(launch.stream)); }

  Launch launch;

 private:
  Buffer workspace_;
};

inline std::vector<float> random_floats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> v(n);
  for (float& x : v) x = normal(generator);
  return v;
}

inline std::vector<Bf16> random_bf16(size_t n, uint32_t seed, float scale = 1.0f) {
  std::vector<float> f = random_floats(n, seed, scale);
  std::vector<Bf16> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = to_bf16(f[i]);
  return v;
}

// Codes of roughly normal values, all finite.
inline std::vector<uint8_t> random_codes(size_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, 60.0f);
  std::vector<uint8_t> table(4096), v(n);
  for (uint8_t& c : table) c = float_to_fp8(normal(generator));
  for (uint8_t& c : v) c = table[generator() % table.size()];
  return v;
}

// Scales as checkpoints hold them: powers of two, or any positive float.
inline std::vector<float> random_scales(size_t n, uint32_t seed, bool powers_of_two) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> exponent(-9.0f, -5.0f);
  std::vector<float> v(n);
  for (float& s : v) {
    float e = exponent(generator);
    s = std::exp2(powers_of_two ? std::floor(e) : e);
  }
  return v;
}

// Runs body(i) for i in [0, n) on all processors: references at real sizes take a while.
template <class Body>
void parallel(int64_t n, const Body& body) {
  const unsigned workers = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (unsigned w = 0; w < workers; ++w)
    threads.emplace_back([&, w] {
      for (int64_t i = w; i < n; i += workers) body(i);
    });
  for (std::thread& t : threads) t.join();
}

// Greatest error of a bf16 result whose exact value is `exact`, when products of absolute sum
// `magnitude` were added in float32 in an order of the kernel's choice: summation error (a few
// units of 2^-24 a term, grown as the square root), then one rounding to 8 bits.
inline double bf16_bound(double exact, double magnitude, double terms) {
  return std::abs(exact) * 0x1p-8 + magnitude * 0x1p-23 * (4 + std::sqrt(terms));
}
// The same without the rounding: float32 results.
inline double f32_bound(double exact, double magnitude, double terms) {
  return std::abs(exact) * 0x1p-23 + magnitude * 0x1p-23 * (4 + std::sqrt(terms));
}

}  // namespace fathom::cuda
