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
    if (spec.layer < 0 || spec.layer >= config.layers) return 1;  // outside, or the MTP layer
    return config.is_moe(spec.layer) ? moe : dense;
  }
};

Sample sample_of(const Config& c) {
  Sample s{c, 0, 0};
  for (int l = 0; l < c.layers; ++l) ++(c.is_moe(l) ? s.moe : s.dense);
  s.config.dense_layers = s.dense > 0 ? 1 : 0;
  s.config.layers = s.config.dense_layers + (s.moe > 0 ? 1 : 0);
  return s;
}

}  // namespace

RankVolume rank_volume(const Config& config, const RankLayout& layout, WeightStorage storage) {
  const Sample sample = sample_of(config);
  const std::vector<TensorSpec> specs = tensor_list(sample.config);
  RankVolume most;
  for (int rank = 0; rank < layout.ranks(); ++rank) {
    RankVolume v;
    int last_expert = -1;
    for (const TensorSpec& spec : specs) {
      const TensorShare share = share_of(spec, sample.config, layout.at(rank));
      if (share.empty()) continue;
      const int64_t times = sample.times(spec), weights = times * share.rows() * share.cols();
      const int64_t bytes =
          times * stored_bytes(spec, share.rows(), share.cols(), config.fp8, storage);
      v.total += bytes;
      if (spec.layer >= sample.config.layers) {
        v.mtp += bytes;
      } else if (spec.expert >= 0) {
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

int64_t checkpoint_bytes(const Config& config) {
  return rank_volume(config, {}, WeightStorage::file).total;
}

int64_t mtp_bytes(const Config& config) { return rank_volume(config, {}, WeightStorage::file).mtp; }

}  // namespace fathom::plan
