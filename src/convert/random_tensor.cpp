#include "convert/random_tensor.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <tuple>

#include "base/check.h"
#include "model/tensor_list.h"
#include "numerics/fp8.h"

namespace fathom {
namespace {

constexpr int kPow2Levels = 3, kFloatLevels = 16;
constexpr int64_t kChunk = 4096;  // draws at a time: they stay in the first-level cache

int levels(const RandomTensor& t) { return t.pow2_scale ? kPow2Levels : kFloatLevels; }

// Mean and standard deviation by what a tensor is.
std::pair<double, double> distribution(const TensorSpec& spec) {
  auto is = [&](std::string_view end) { return spec.name.ends_with(end); };
  if (is("e_score_correction_bias")) return {0, 0.05};
  if (is(".bias")) return {0, 0.1};
  if (spec.shape.size() == 1) return {1, 0.1};
  if (is("embed_tokens.weight")) return {0, 1};
  double gain = is("down_proj.weight") || is("o_proj.weight") ? 0.5 : 1;
  return {0, gain / std::sqrt(static_cast<double>(spec.shape[1]))};
}

int64_t blocks(int64_t n) { return (n + kFp8Block - 1) / kFp8Block; }

}  // namespace

std::vector<RandomTensor> random_tensors(const Config& config, const std::string& torch_dtype) {
  DType plain = torch_dtype == "float32" && !config.fp8 ? DType::f32 : DType::bf16;
  std::vector<RandomTensor> list;
  for (const TensorSpec& spec : tensor_list(config)) {
    RandomTensor t;
    t.name = t.stream = spec.name;
    t.shape = spec.shape;
    t.dtype = spec.kind == Kind::f32_vector ? DType::f32 : plain;
    if (spec.kind == Kind::matrix && config.fp8) t.dtype = DType::fp8_e4m3;
    t.pow2_scale = config.ue8m0;
    std::tie(t.mean, t.std) = distribution(spec);
    list.push_back(t);
    if (t.dtype != DType::fp8_e4m3) continue;
    t.name += "_scale_inv";
    t.stream = t.name;
    t.shape = {blocks(spec.shape[0]), blocks(spec.shape[1])};
    t.dtype = DType::f32;
    t.is_scale = true;
    list.push_back(t);
  }
  if (config.mtp_layers == 0) return list;
  auto copy = [&](const std::string& from, const std::string& to) {
    RandomTensor t = *std::find_if(list.begin(), list.end(),
                                   [&](const RandomTensor& r) { return r.name == from; });
    t.name = fmt::format("model.layers.{}.{}", config.layers, to);
    list.push_back(t);
  };
  copy("model.embed_tokens.weight", "embed_tokens.weight");
  copy("lm_head.weight", "shared_head.head.weight");
  return list;
}

RandomFiller::RandomFiller(uint64_t seed, const std::vector<RandomTensor>& tensors)
    : seed_(seed), tensors_(tensors) {
  for (const RandomTensor& t : tensors) {
    if (t.is_scale) continue;
    if (t.dtype != DType::fp8_e4m3) {
      add_table(t, t.mean, t.std);
      continue;
    }
    for (int i = 0; i < levels(t); ++i) add_table(t, 0, t.std / scale(t, i));
  }
}

void RandomFiller::add_table(const RandomTensor& t, double mean, double std) {
  auto key = std::tuple(t.dtype, mean, std);
  if (!tables_.count(key)) tables_.emplace(key, NormalTable(quantiles_, t.dtype, mean, std));
}

const NormalTable& RandomFiller::table(const RandomTensor& t, double mean, double std) const {
  auto at = tables_.find(std::tuple(t.dtype, mean, std));
  FATHOM_CHECK(at != tables_.end(), "no table for {}", t.name);
  return at->second;
}

int RandomFiller::level(const Draws& draws, int64_t block) const {
  uint16_t draw = 0;
  draws.fill(block, {&draw, 1});
  return draw;
}

double RandomFiller::scale(const RandomTensor& t, int level) const {
  float least = group_scale(static_cast<float>(t.std * quantiles_.greatest()), t.pow2_scale);
  if (t.pow2_scale) return static_cast<double>(least) * (1 << level);
  // Rounded to float32 here, since the table is made for the scale that the file will hold.
  return static_cast<float>(least * (1 + static_cast<double>(level) / kFloatLevels));
}

void RandomFiller::fill(size_t t, int64_t begin, int64_t end, std::byte* out) const {
  const RandomTensor& r = tensors_[t];
  if (r.is_scale) return fill_scales(t, begin, end, out);
  if (r.dtype == DType::fp8_e4m3) return fill_fp8(t, begin, end, out);
  Draws draws(seed_, r.stream);
  const NormalTable& values = table(r, r.mean, r.std);
  uint16_t chunk[kChunk];
  for (int64_t i = begin * r.cols(); i < end * r.cols(); i += kChunk) {
    std::span<uint16_t> part(chunk, std::min(kChunk, end * r.cols() - i));
    draws.fill(i, part);
    values.map(part, out + (i - begin * r.cols()) * static_cast<int64_t>(size_of(r.dtype)));
  }
}

void RandomFiller::fill_scales(size_t t, int64_t begin, int64_t end, std::byte* out) const {
  const RandomTensor& r = tensors_[t];
  Draws draws(seed_, r.stream);
  for (int64_t i = begin * r.cols(); i < end * r.cols(); ++i, out += sizeof(float)) {
    auto value = static_cast<float>(scale(r, level(draws, i) % levels(r)));
    std::memcpy(out, &value, sizeof(value));
  }
}

void RandomFiller::fill_fp8(size_t t, int64_t begin, int64_t end, std::byte* out) const {
  const RandomTensor& r = tensors_[t];
  Draws draws(seed_, r.stream), block_draws(seed_, tensors_[t + 1].stream);
  std::vector<const NormalTable*> tables;
  tables.reserve(static_cast<size_t>(levels(r)));
  for (int i = 0; i < levels(r); ++i) tables.push_back(&table(r, 0, r.std / scale(r, i)));
  uint16_t chunk[kFp8Block];
  for (int64_t row = begin; row < end; ++row)
    for (int64_t b = 0; b < blocks(r.cols()); ++b) {
      int64_t column = b * kFp8Block;
      std::span<uint16_t> part(chunk, std::min<int64_t>(kFp8Block, r.cols() - column));
      draws.fill(row * r.cols() + column, part);
      int64_t block = row / kFp8Block * blocks(r.cols()) + b;
      tables[level(block_draws, block) % levels(r)]->map(part, out);
      out += part.size();
    }
}

}  // namespace fathom
