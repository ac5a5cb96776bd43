// Random numbers for random checkpoints. Value i of tensor T under seed S depends on (S, T, i)
// alone, so any number of threads, in any order, writes the same bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"

namespace fathom {

// A counter-based generator of 16-bit draws (splitmix64 of a per-tensor key and a counter).
class Draws {
 public:
  Draws(uint64_t seed, std::string_view tensor);
  // Draws first .. first + out.size() - 1 of the tensor's stream.
  void fill(int64_t first, std::span<uint16_t> out) const;

 private:
  uint64_t word(uint64_t i) const;
  uint64_t key_;
};

// Inverse of the normal distribution function, 0 < p < 1 (P. J. Acklam's rational approximation,
// relative error 1.2e-9).
double normal_quantile(double p);

// The 65,536 quantiles of N(0, 1) at (i + 1/2) / 65,536: finite and symmetric.
class Quantiles {
 public:
  Quantiles();
  std::span<const double> all() const { return values_; }
  double greatest() const { return values_.back(); }

 private:
  std::vector<double> values_;
};

// Maps draws to values of N(mean, std) by a table in the wanted format: one look-up per element
// instead of a logarithm and a cosine.
class NormalTable {
 public:
  NormalTable(const Quantiles& quantiles, DType dtype, double mean, double std);
  // Writes draws.size() elements of the table's type.
  void map(std::span<const uint16_t> draws, std::byte* out) const;

 private:
  DType dtype_;
  std::vector<float> f32_;
  std::vector<uint16_t> bf16_;
  std::vector<uint8_t> fp8_;
};

}  // namespace fathom
