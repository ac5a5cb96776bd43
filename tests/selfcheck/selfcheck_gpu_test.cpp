// The self-check of a GPU passes on what is right, and a fault in what the GPU computes makes the
// line fail that speaks of it.
#include <gtest/gtest.h>

#include <set>

#include "kernels/gpu.h"
#include "kernels/trace_ops.h"
#include "model/checkpoint.h"
#include "selfcheck/selfcheck.h"

namespace fathom {
namespace {

class SelfcheckGpu : public testing::Test {
 protected:
  void SetUp() override {
    const GpuInfo gpu = find_gpu();
    if (!gpu.usable) GTEST_SKIP() << "no usable GPU: " << gpu.why_not;
  }

  static std::set<std::string> failed(SelfcheckOptions options) {
    static const std::unique_ptr<Checkpoint> tiny =
        Checkpoint::load(FATHOM_SOURCE_DIR "/tests/data/tiny");
    options.compute.device = DeviceKind::cuda;
    options.compute.threads = 1;
    std::set<std::string> ids;
    for (const CheckResult& r : run_selfcheck(tiny->config(), tiny->weights(), nullptr, options))
      if (r.verdict == Verdict::failed) ids.insert(r.id + ": " + r.figure);
    return ids;
  }
};

TEST_F(SelfcheckGpu, Passes) { EXPECT_EQ(failed({}), std::set<std::string>{}); }

// Decoding attends with half as much more sharpness, on the GPU alone.
struct SharpOnGpu : TraceOps {
  using TraceOps::TraceOps;
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& b, float scale) override {
    const float factor = inner_.memory() == MemoryKind::host ? 1.0f : 1.5f;
    inner_.attend_absorbed(out, q, up, picked, kv, b, scale * factor);
  }
};

TEST_F(SelfcheckGpu, CatchesAWrongSoftmaxScaleOnTheGpuAlone) {
  SelfcheckOptions options;
  options.only = {"kernels"};
  options.wrap = [](Ops& inner) { return std::make_unique<SharpOnGpu>(inner); };
  const std::set<std::string> ids = failed(options);
  ASSERT_EQ(ids.size(), 1u);
  EXPECT_EQ(ids.begin()->substr(0, ids.begin()->find(':')), "kernels.attend_absorbed");
}

}  // namespace
}  // namespace fathom
