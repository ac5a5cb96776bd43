#include "convert/random_values.h"

#include <cmath>
#include <cstring>

#include "base/check.h"
#include "numerics/bf16.h"
#include "numerics/fp8.h"

namespace fathom {
namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;
constexpr int kDraws = 1 << 16;
constexpr int kPerWord = 4;  // 16-bit draws in one 64-bit word

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

Draws::Draws(uint64_t seed, std::string_view tensor) {
  uint64_t name = 0xCBF29CE484222325u;  // FNV-1a
  for (unsigned char c : tensor) name = (name ^ c) * 0x100000001B3u;
  key_ = mix(mix(seed + kGolden) ^ name);
}

uint64_t Draws::word(uint64_t i) const { return mix(key_ + (i + 1) * kGolden); }

void Draws::fill(int64_t first, std::span<uint16_t> out) const {
  size_t n = out.size(), k = 0;
  auto single = [&](uint64_t i) {
    return static_cast<uint16_t>(word(i / kPerWord) >> (16 * (i % kPerWord)));
  };
  uint64_t at = static_cast<uint64_t>(first);
  for (; k < n && (at + k) % kPerWord != 0; ++k) out[k] = single(at + k);
  for (; k + kPerWord <= n; k += kPerWord) {
    uint64_t w = word((at + k) / kPerWord);
    std::memcpy(&out[k], &w, sizeof(w));  // little endian: draw j is bits 16 j and up
  }
  for (; k < n; ++k) out[k] = single(at + k);
}

double normal_quantile(double p) {
  static constexpr double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,
                                 -2.759285104469687e+02, 1.383577518672690e+02,
                                 -3.066479806614716e+01, 2.506628277459239e+00};
  static constexpr double b[] = {-5.447609879822406e+01, 1.615858368580409e+02,
                                 -1.556989798598866e+02, 6.680131188771972e+01,
                                 -1.328068155288572e+01};
  static constexpr double c[] = {-7.784894002430293e-03, -3.223964580411365e-01,
                                 -2.400758277161838e+00, -2.549732539343734e+00,
                                 4.374664141464968e+00,  2.938163982698783e+00};
  static constexpr double d[] = {7.784695709041462e-03, 3.224671290700398e-01,
                                 2.445134137142996e+00, 3.754408661907416e+00};
  constexpr double kTail = 0.02425;
  FATHOM_CHECK(p > 0 && p < 1, "quantile of {}", p);
  if (p > 0.5) return -normal_quantile(1 - p);
  if (p < kTail) {
    double q = std::sqrt(-2 * std::log(p));
    return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
           ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
  }
  double q = p - 0.5, r = q * q;
  return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
         (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

Quantiles::Quantiles() {
  for (int i = 0; i < kDraws; ++i) values_.push_back(normal_quantile((i + 0.5) / kDraws));
}

NormalTable::NormalTable(const Quantiles& quantiles, DType dtype, double mean, double std)
    : dtype_(dtype) {
  FATHOM_CHECK(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::fp8_e4m3,
               "no table for {}", name_of(dtype));
  for (double q : quantiles.all()) {
    auto value = static_cast<float>(mean + std * q);
    if (dtype == DType::f32) f32_.push_back(value);
    if (dtype == DType::bf16) bf16_.push_back(to_bf16(value).bits);
    if (dtype == DType::fp8_e4m3) fp8_.push_back(quantise(value, 1.0f));
  }
}

void NormalTable::map(std::span<const uint16_t> draws, std::byte* out) const {
  auto look_up = [&](const auto& table) {
    using T = typename std::decay_t<decltype(table)>::value_type;
    for (size_t i = 0; i < draws.size(); ++i)
      std::memcpy(out + i * sizeof(T), &table[draws[i]], sizeof(T));
  };
  if (dtype_ == DType::f32) look_up(f32_);
  if (dtype_ == DType::bf16) look_up(bf16_);
  if (dtype_ == DType::fp8_e4m3) look_up(fp8_);
}

}  // namespace fathom
