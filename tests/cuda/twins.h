// Tensors and weights that lie on both sides, in the host's memory and in the GPU's, with the same
// values.
#pragma once

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/qweight.h"
#include "support.h"
#include "tensor/tensor.h"

namespace fathom::cuda {

// As random_codes, for hundreds of millions of them.
inline std::vector<uint8_t> many_codes(size_t n, uint32_t seed) {
  const std::vector<uint8_t> table = random_codes(4096, seed);
  std::vector<uint8_t> v(n);
  constexpr size_t kChunk = 1 << 20;
  parallel(static_cast<int64_t>((n + kChunk - 1) / kChunk), [&](int64_t chunk) {
    uint64_t state = (uint64_t{seed} << 32) + static_cast<uint64_t>(chunk);
    for (size_t i = chunk * kChunk; i < std::min(n, (chunk + 1) * kChunk); ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      v[i] = table[state >> 52];
    }
  });
  return v;
}

// A tensor on both sides.
struct Both {
  Tensor host, gpu;
};
struct BothWeight {
  QWeight host, gpu;
};

// Owns memory on both sides; what is made is equal on both.
class Twins {
 public:
  template <class T>
  Both tensor(DType dtype, std::initializer_list<int64_t> shape, const std::vector<T>& values) {
    return {Tensor(keep(values), dtype, shape), Tensor(mirror(values), dtype, shape)};
  }
  Both bf16(std::initializer_list<int64_t> shape, float scale = 1.0f) {
    return tensor(DType::bf16, shape, random_bf16(count(shape), seed_++, scale));
  }
  Both f32(std::initializer_list<int64_t> shape, float scale = 1.0f) {
    return tensor(DType::f32, shape, random_floats(count(shape), seed_++, scale));
  }
  // Outputs start as NaN.
  Both empty(DType dtype, std::initializer_list<int64_t> shape) {
    return tensor(dtype, shape,
                  std::vector<uint8_t>(static_cast<size_t>(count(shape)) * size_of(dtype), 0xFF));
  }
  std::pair<const float*, const float*> gain(int n) {
    std::vector<float> g = random_floats(n, seed_++, 0.2f);
    for (float& x : g) x += 1.0f;
    return {static_cast<const float*>(keep(g)), static_cast<const float*>(mirror(g))};
  }
  // Matrices of `rows[i]` rows one after another in memory, of about unit output per unit input.
  std::vector<BothWeight> weights(std::vector<int64_t> rows, int64_t cols, bool fp8) {
    int64_t all = std::accumulate(rows.begin(), rows.end(), int64_t{0}), blocks = 0;
    std::vector<BothWeight> made;
    float size = 1.0f / std::sqrt(static_cast<float>(cols));
    if (!fp8) {
      Both m = bf16({all, cols}, size);
      for (int64_t n : rows) {
        QWeight w;
        w.dtype = DType::bf16;
        w.rows = n;
        w.cols = cols;
        made.push_back({w, w});
        made.back().host.data = static_cast<Bf16*>(m.host.data) + blocks * cols;
        made.back().gpu.data = static_cast<Bf16*>(m.gpu.data) + blocks * cols;
        blocks += n;
      }
      return made;
    }
    int64_t stride = (cols + 127) / 128;
    for (int64_t n : rows) blocks += (n + 127) / 128;
    std::vector<uint8_t> codes = many_codes(static_cast<size_t>(all * cols), seed_++);
    std::vector<float> scales = random_scales(static_cast<size_t>(blocks * stride), seed_++, true);
    for (float& s : scales) s *= std::exp2(std::round(std::log2(size)));
    const uint8_t *c = static_cast<uint8_t*>(keep(codes)),
                  *gc = static_cast<uint8_t*>(mirror(codes));
    const float *s = static_cast<float*>(keep(scales)), *gs = static_cast<float*>(mirror(scales));
    for (int64_t n : rows) {
      QWeight w;
      w.dtype = DType::fp8_e4m3;
      w.rows = n;
      w.cols = cols;
      w.scale_stride = stride;
      made.push_back({w, w});
      made.back().host.data = c;
      made.back().host.scale = s;
      made.back().gpu.data = gc;
      made.back().gpu.scale = gs;
      c += n * cols;
      gc += n * cols;
      s += (n + 127) / 128 * stride;
      gs += (n + 127) / 128 * stride;
    }
    return made;
  }
  BothWeight weight(int64_t rows, int64_t cols, bool fp8) { return weights({rows}, cols, fp8)[0]; }
  template <class T>
  void* keep(const std::vector<T>& v) {
    host_.emplace_back(v.size() * sizeof(T));
    std::memcpy(host_.back().data(), v.data(), v.size() * sizeof(T));
    return host_.back().data();
  }
  template <class T>
  void* mirror(const std::vector<T>& v) {
    gpu_.emplace_back(std::max<size_t>(16, v.size() * sizeof(T)), MemoryKind::device);
    FATHOM_CUDA(
        cudaMemcpy(gpu_.back().data(), v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return gpu_.back().data();
  }
  static size_t count(std::initializer_list<int64_t> shape) {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return static_cast<size_t>(n);
  }
  uint32_t next_seed() { return seed_++; }

 private:
  uint32_t seed_ = 100;
  std::vector<Buffer> host_, gpu_;
};

inline std::vector<float> values_of(const Tensor& t) {
  std::vector<float> v;
  for (int64_t r = 0; r < t.rows(); ++r)
    for (int64_t i = 0; i < t.row_size(); ++i)
      v.push_back(t.dtype == DType::f32    ? t.row<float>(r)[i]
                  : t.dtype == DType::bf16 ? to_float(t.row<Bf16>(r)[i])
                                           : static_cast<float>(t.row<int32_t>(r)[i]));
  return v;
}

}  // namespace fathom::cuda
