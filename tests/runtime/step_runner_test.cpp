// What surrounds a step on any device: padded sizes, the choice of a device, the plan of a GPU's
// weights. Runs without a GPU.
#include "runtime/step_runner.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "kernels/gpu.h"
#include "model/placed_weights.h"
#include "runtime/device.h"
#include "support/real_config.h"

namespace fathom {
namespace {

TEST(PaddedTokens, NeverShrinkAndAreFew) {
  int last = 0, sizes = 0;
  for (int n = 1; n <= 1024; ++n) {
    const int padded = padded_tokens(n);
    EXPECT_GE(padded, n);
    EXPECT_LE(padded - n, std::max(n - 1, 0) < 8 ? 3 : 31) << n;
    EXPECT_EQ(padded_tokens(padded), padded) << n;
    EXPECT_GE(padded, last);
    sizes += padded != last;
    last = padded;
  }
  EXPECT_LT(sizes, 48);
}

TEST(ChooseDevice, TheCpuIsAlwaysThere) {
  EXPECT_EQ(choose_device("cpu").device, DeviceKind::cpu);
  if (find_gpu().usable) {
    EXPECT_EQ(choose_device("auto").device, DeviceKind::cuda);
    EXPECT_EQ(choose_device("cuda").device, DeviceKind::cuda);
  } else {
    EXPECT_EQ(choose_device("auto").device, DeviceKind::cpu);
    EXPECT_THROW(choose_device("cuda"), Error);  // asked for by name: never another one silently
  }
}

// FP8 codes and scales as they are, kv_b twice more in bf16, embedding and head in bf16: 61 layers
// of the real model without MTP are 671 GB of codes and little else.
TEST(PlacedWeights, CountTheRealModel) {
  Config c = real_config();
  c.mtp_layers = 0;
  const double fp8 = static_cast<double>(PlacedWeights::bytes_on_gpu(c, Numerics::fp8));
  const double bf16 = static_cast<double>(PlacedWeights::bytes_on_gpu(c, Numerics::bf16));
  EXPECT_NEAR(fp8, 675e9, 5e9);
  EXPECT_NEAR(bf16 / fp8, 2.0, 0.02);
}

}  // namespace
}  // namespace fathom
