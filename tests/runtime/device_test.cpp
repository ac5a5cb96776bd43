// Where the weights of a model lie on processors.
#include "runtime/device.h"

#include <gtest/gtest.h>

#include "kernels/cpu_ops.h"
#include "model/checkpoint.h"

namespace fathom {
namespace {

int64_t matrices_with_words(const Weights& weights) {
  Weights views = weights;
  int64_t count = 0;
  for_each_layer(views, [&](const LayerWeights& layer) {
    for (const QWeight* w : {&layer.attention.q_b, &layer.attention.o, &layer.mlp.gate})
      count += w->words != nullptr;
    for (const MlpWeights& expert : layer.moe.experts) count += expert.down.words != nullptr;
  });
  return count;
}

// Made when the weights are placed, so that all that computes with them shares one copy.
TEST(DeviceWeights, HaveWordsForTheKernelsThatReadThem) {
  for (const int ranks : {1, 2}) {
    CheckpointOptions options;
    options.layout.tensor = ranks;
    const auto checkpoint = Checkpoint::load(FATHOM_SOURCE_DIR "/models/small", options);
    for (const CpuKernels& k : cpu_kernels()) {
      if (!k.usable()) continue;
      SCOPED_TRACE(std::string(k.name) + ", ranks: " + std::to_string(ranks));
      ComputePlan plan;
      plan.kernels = k.name;
      plan.layout = options.layout;
      const DeviceWeights weights(checkpoint->config(), checkpoint->rank_weights(), plan);
      ASSERT_EQ(weights.ranks().size(), ranks);
      for (int r = 0; r < ranks; ++r)
        EXPECT_EQ(matrices_with_words(weights.ranks()[r]) > 0, k.reads_words);
      EXPECT_EQ(matrices_with_words(checkpoint->weights()), 0);
    }
  }
}

}  // namespace
}  // namespace fathom
