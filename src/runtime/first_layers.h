// The first layers of a model as a model of its own: benchmarks tell layers apart by them.
#pragma once

#include <vector>

#include "model/config.h"
#include "model/weights.h"

namespace fathom {

// `dense` of the layers are dense, perhaps more than `whole` has: then its last dense layer is
// there several times.
inline Config first_layers(const Config& whole, int layers, int dense, bool with_mtp) {
  Config c = whole;
  c.layers = layers;
  c.dense_layers = dense;
  if (!with_mtp) c.mtp_layers = 0;
  return c;
}

// Weights of that model: copies that point to the same memory.
class FirstLayers {
 public:
  FirstLayers(const RankWeights& whole, int whole_dense, const Config& config) {
    for (int rank = 0; rank < whole.size(); ++rank) {
      Weights& w = ranks_.emplace_back(whole[rank]);
      w.layers.resize(static_cast<size_t>(config.layers));
      for (int l = whole_dense; l < config.dense_layers; ++l)
        w.layers[static_cast<size_t>(l)] = w.layers[static_cast<size_t>(whole_dense) - 1];
      if (config.mtp_layers == 0) w.mtp.reset();
    }
  }
  RankWeights ranks() const {
    std::vector<const Weights*> all;
    for (const Weights& w : ranks_) all.push_back(&w);
    return RankWeights(std::move(all));
  }

 private:
  std::vector<Weights> ranks_;
};

}  // namespace fathom
