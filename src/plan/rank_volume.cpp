#include "plan/rank_volume.h"

#include <algorithm>

#include "model/tensor_list.h"
#include "numerics/fp8.h"

namespace fathom::plan {
namespace {

int64_t blocks(int64_t n) { return (n + kFp8Block - 1) / kFp8Block; }

int64_t stored_bytes(const TensorSpec& spec, int64_t rows, int64_t cols, bool fp8,
                     WeightStorage storage) {
  const int64_t count = rows * cols;
  if (spec.shape.size() == 1) {
    const bool narrow = storage == WeightStorage::file && spec.kind == Kind::norm;
    return (narrow ? 2 : 4) * count;
  }
  const bool codes = fp8 && spec.kind == Kind::matrix && storage != WeightStorage::gpu_bf16;
  int64_t bytes = codes ? count + 4 * blocks(rows) * blocks(cols) : 2 * count;
  if (storage != WeightStorage::file && spec.name.ends_with("kv_b_proj.weight")) bytes += 2 * count;
  return bytes;
}

// One dense and one MoE layer stand for all of their kind.
struct Sample {
  Config config;
  int64_t dense = 0, moe = 0;  // layers of each kind in the model

  int64_t times(const TensorSpec& spec) const {
    if (spec.layer < 0) return 1;
    return config.is_moe(spec.layer) ? moe : dense;
  }
};

Sample sample_of(const Config& c) {
  Sample s{c, 0, 0};
  for (int l = 0; l < c.layers; ++l) ++(c.is_moe(l) ? s.moe : s.dense);
  s.config.mtp_layers = 0;
  s.config.dense_layers = s.dense > 0 ? 1 : 0;
  s.config.layers = s.config.dense_layers + (s.moe > 0 ? 1 : 0);
  return s;
}

int64_t all_bytes(const Config& c) {
  int64_t sum = 0;
  const Sample s = sample_of(c);
  for (const TensorSpec& spec : tensor_list(s.config))
    sum +=
        s.times(spec) * stored_bytes(spec, spec.shape[0], spec.shape.size() > 1 ? spec.shape[1] : 1,
                                     c.fp8, WeightStorage::file);
  return sum;
}

}  // namespace

RankVolume rank_volume(const Config& config, const RankLayout& layout, WeightStorage storage) {
  const Sample sample = sample_of(config);
  const std::vector<TensorSpec> specs = tensor_list(sample.config);
  RankVolume most;
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    RankVolume v;
    v.expert_layers = static_cast<int>(sample.moe);
    int last_expert = -1;
    for (const TensorSpec& spec : specs) {
      const TensorShare share = share_of(spec, sample.config, layout.at(rank));
      if (share.empty()) continue;
      const int64_t times = sample.times(spec), weights = times * share.rows() * share.cols();
      const int64_t bytes =
          times * stored_bytes(spec, share.rows(), share.cols(), config.fp8, storage);
      v.total += bytes;
      if (spec.expert >= 0) {
        v.experts += bytes;
        v.expert_weights += weights;
        if (spec.expert != last_expert) ++v.experts_held;
        last_expert = spec.expert;
      } else if (spec.name == "lm_head.weight") {
        v.head += bytes;
        v.head_weights += weights;
      } else if (spec.name == "model.embed_tokens.weight") {
        v.embed += bytes;
      } else {
        v.always += bytes;
        if (spec.shape.size() > 1) v.always_weights += weights;
      }
    }
    if (v.total > most.total) most = v;
  }
  return most;
}

int64_t mtp_bytes(const Config& config) {
  if (config.mtp_layers == 0) return 0;
  // A block like the last layer's, and what joins it to the model.
  int64_t sum = 0;
  Config one = config;
  one.layers = 1;
  one.dense_layers = config.experts > 0 ? 0 : 1;
  for (const TensorSpec& spec : tensor_list(one))
    if (spec.layer == one.layers)
      sum += stored_bytes(spec, spec.shape[0], spec.shape.size() > 1 ? spec.shape[1] : 1,
                          config.fp8, WeightStorage::file);
  return sum;
}

int64_t checkpoint_bytes(const Config& config) { return all_bytes(config) + mtp_bytes(config); }

}  // namespace fathom::plan
