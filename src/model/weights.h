// The weights of a model, named as in the paper. They are views: the Checkpoint (or PlacedWeights)
// owns the memory.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "kernels/ops.h"
#include "kernels/qweight.h"

namespace fathom {

struct IndexerWeights {
  QWeight q_b;  // indexer.wq_b          [index_heads * index_dim, q_rank]
  QWeight k;    // indexer.wk            [index_dim, hidden]
  LayerNormWeights k_norm;
  QWeight head_weight;  // indexer.weights_proj  [index_heads, hidden]
};

struct AttentionWeights {
  QWeight q_a;                     // [q_rank, hidden]
  const float* q_norm = nullptr;   // [q_rank]
  QWeight q_b;                     // [heads * (nope + rope), q_rank]
  QWeight kv_a;                    // [latent + rope, hidden]
  const float* kv_norm = nullptr;  // [latent]
  KvUpWeights kv_up;               // kv_b_proj
  QWeight o;                       // [hidden, heads * value]
  IndexerWeights indexer;          // empty in a model without one
};

struct MoeWeights {
  QWeight gate;                 // [experts, hidden]
  const float* bias = nullptr;  // e_score_correction_bias [experts], may be null
  std::vector<MlpWeights> experts;
  MlpWeights shared;  // empty when there are none
};

struct LayerWeights {
  const float* attention_norm = nullptr;  // input_layernorm
  AttentionWeights attention;
  const float* ffn_norm = nullptr;  // post_attention_layernorm
  bool is_moe = false;
  MlpWeights mlp;  // dense layers
  MoeWeights moe;
};

// Multi-token prediction: the layer after the last one (DeepSeek-V3 report, section 2.2).
struct MtpWeights {
  const float* embed_norm = nullptr;   // enorm
  const float* hidden_norm = nullptr;  // hnorm
  QWeight combine;                     // eh_proj [hidden, 2 * hidden], embedding first
  LayerWeights block;
  const float* head_norm = nullptr;  // shared_head.norm
};

struct Weights {
  QWeight embed;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  const float* norm = nullptr;
  QWeight head;  // [vocab, hidden]
  std::optional<MtpWeights> mtp;
};

// Calls f(LayerWeights&) for every layer, the MTP block's last.
template <class F>
void for_each_layer(Weights& w, F&& f) {
  for (LayerWeights& layer : w.layers) f(layer);
  if (w.mtp) f(w.mtp->block);
}

// The weights of each rank of a process, in order of rank. Does not own them.
class RankWeights {
 public:
  RankWeights() = default;                             // no rank
  RankWeights(const Weights& only) : ranks_{&only} {}  // implicit: the usual case of one rank
  explicit RankWeights(std::vector<const Weights*> ranks) : ranks_(std::move(ranks)) {}
  int size() const { return static_cast<int>(ranks_.size()); }
  // Returns those of `count` ranks from `first` on.
  RankWeights part(int first, int count) const {
    return RankWeights(
        std::vector<const Weights*>(ranks_.begin() + first, ranks_.begin() + first + count));
  }
  const Weights& operator[](int rank) const { return *ranks_[static_cast<size_t>(rank)]; }

 private:
  std::vector<const Weights*> ranks_;
};

}  // namespace fathom
