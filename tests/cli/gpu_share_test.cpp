#include "cli/gpu_share.h"

#include <gtest/gtest.h>

namespace fathom::cli {
namespace {

TEST(GpuShare, ProcessesDivideTheGpusThatTheySee) {
  EXPECT_EQ(gpus_of_process({}, 8, {0, 2}), "0,1,2,3");
  EXPECT_EQ(gpus_of_process({}, 8, {1, 2}), "4,5,6,7");
  EXPECT_EQ(gpus_of_process("2,5", 8, {0, 2}), "2");
  EXPECT_EQ(gpus_of_process("2,5", 8, {1, 2}), "5");
  EXPECT_EQ(gpus_of_process("GPU-1a,GPU-2b,GPU-3c", 8, {1, 2}), "GPU-2b,GPU-3c");
}

TEST(GpuShare, AProcessWithoutOneSeesNone) {
  EXPECT_EQ(gpus_of_process({}, 1, {0, 3}), "0");
  EXPECT_EQ(gpus_of_process({}, 1, {1, 3}), "-1");
  EXPECT_EQ(gpus_of_process({}, 1, {2, 3}), "-1");
}

}  // namespace
}  // namespace fathom::cli
