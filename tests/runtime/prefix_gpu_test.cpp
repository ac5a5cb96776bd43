// Kept pages and the cache folder where rows lie in a GPU's memory. Batch-invariant, so that a hit
// must give the bits of a cold run.
#include <gtest/gtest.h>

#include <random>

#include "kernels/gpu.h"
#include "model/checkpoint.h"
#include "runtime/cache_origin.h"
#include "runtime/device.h"
#include "runtime/engine.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

class PrefixGpu : public testing::Test {
 protected:
  void SetUp() override {
    const GpuInfo gpu = find_gpu();
    if (!gpu.usable) GTEST_SKIP() << "no usable GPU: " << gpu.why_not;
    checkpoint_ = Checkpoint::load(model_, {.config_file = "", .with_mtp = false});
    weights_ = std::make_unique<DeviceWeights>(checkpoint_->config(), checkpoint_->weights(),
                                               options(false).compute);
  }

  EngineOptions options(bool keep) const {
    EngineOptions o;
    o.compute.device = DeviceKind::cuda;
    o.compute.threads = 1;
    o.compute.context = 4096;
    o.compute.sequences = 4;
    o.cache_tokens = 4 * 4096;
    o.compute.step_tokens = 512;
    o.compute.batch_invariant = true;
    o.keep_prefixes = keep;
    return o;
  }

  struct Answer {
    std::vector<int32_t> ids;
    int64_t reused = 0;
  };
  // Each prompt twice, all at once: they also meet on their way.
  std::vector<Answer> ask(const EngineOptions& o) const {
    Engine engine(checkpoint_->config(), weights_->get(), o);
    std::vector<Answer> answers(8);
    for (size_t i = 0; i < answers.size(); ++i) {
      std::mt19937 random(static_cast<unsigned>(i % 4));
      Request r;
      for (size_t n = 0; n < 100 + i % 4 * 700; ++n)
        r.ids.push_back(static_cast<int32_t>(random() % 4000));
      r.max_new_tokens = 20;
      r.sampling.temperature = 1;
      r.sink = [&a = answers[i]](const TokenEvent& e) {
        if (e.token >= 0) a.ids.push_back(e.token);
        a.reused = e.stats->reused_tokens;
      };
      EXPECT_TRUE(engine.submit(std::move(r)).ok());
    }
    while (engine.step()) engine.check_integrity();
    return answers;
  }

  const std::string model_ = std::string(FATHOM_SOURCE_DIR) + "/models/small";
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<DeviceWeights> weights_;
};

TEST_F(PrefixGpu, AnswersAreThoseOfAColdRunInMemoryAndFromDisk) {
  const std::vector<Answer> want = ask(options(false));
  test::TempFolder folder;
  EngineOptions o = options(true);
  o.cache_dir = folder.path();
  o.checkpoint = checkpoint_digest(model_);
  for (int run = 0; run < 2; ++run) {
    const std::vector<Answer> got = ask(o);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].ids, want[i].ids) << "run " << run << ", request " << i;
      if (run == 1) {
        EXPECT_GE(got[i].reused, (99 + static_cast<int64_t>(i) % 4 * 700) / 64 * 64);
      }
    }
  }
}

}  // namespace
}  // namespace fathom
