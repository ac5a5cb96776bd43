// The content of the tensors of a random checkpoint.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "convert/random_values.h"
#include "model/config.h"
#include "tensor/dtype.h"

namespace fathom {

struct RandomTensor {
  std::string name;
  std::string stream;  // the name that seeds its values: its own, or that of the tensor it copies
  std::vector<int64_t> shape;
  DType dtype = DType::bf16;
  double mean = 0, std = 1;
  bool is_scale = false;  // block scales of the tensor before it in the list
  bool pow2_scale = false;

  int64_t rows() const { return shape.size() == 2 ? shape[0] : 1; }
  int64_t cols() const { return shape.back(); }
  uint64_t bytes() const { return static_cast<uint64_t>(rows() * cols()) * size_of(dtype); }
};

// Every tensor of the model in file order, each FP8 weight followed by its scales; with an MTP
// layer its copies of embedding and head too, as the real checkpoint has them. `torch_dtype`
// float32 makes an unquantised checkpoint float32 throughout.
std::vector<RandomTensor> random_tensors(const Config& config, const std::string& torch_dtype);

class RandomFiller {
 public:
  RandomFiller(uint64_t seed, const std::vector<RandomTensor>& tensors);
  // Writes rows [begin, end) of tensor number `t`. Thread-safe.
  void fill(size_t t, int64_t begin, int64_t end, std::byte* out) const;

 private:
  // FP8 blocks differ in scale, so that using a wrong block's scale is noticed. The weights of all
  // blocks have the same distribution. A block's scale is the least one that can represent its
  // weights, times one of a few factors.
  int level(const Draws& draws, int64_t block) const;
  double scale(const RandomTensor& t, int level) const;
  void fill_fp8(size_t t, int64_t begin, int64_t end, std::byte* out) const;
  void fill_scales(size_t t, int64_t begin, int64_t end, std::byte* out) const;
  const NormalTable& table(const RandomTensor& t, double mean, double std) const;
  void add_table(const RandomTensor& t, double mean, double std);

  uint64_t seed_;
  const std::vector<RandomTensor>& tensors_;
  Quantiles quantiles_;
  std::map<std::tuple<DType, double, double>, NormalTable> tables_;
};

}  // namespace fathom
