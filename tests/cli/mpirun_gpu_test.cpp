// Several processes with a GPU each, started by mpirun on this machine: they say what as many ranks
// of one process say, which exchange through each other's memory. Skipped without two GPUs.
#include <gmock/gmock.h>

#include "cli/mpirun.h"
#include "kernels/gpu.h"
#include "kernels/nccl.h"

namespace fathom {
namespace {

using test::kMpirun;
using test::kSmall;
using test::Running;
using test::TempFolder;
using testing::HasSubstr;

class MpirunGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = test::why_no_mpirun(); !why.empty()) GTEST_SKIP() << why;
    if (nccl_exchange_bytes() == 0) GTEST_SKIP() << "this build has no NCCL";
    const GpuInfo gpus = find_gpu(2);
    if (!gpus.usable) GTEST_SKIP() << "no two usable GPUs: " << gpus.why_not;
    gpus_ = gpus.count;
    std::ofstream(folder_.file("prompts"))
        << "Hello!\n\nWhat is the capital of France?\n\nTell me a story.\n\nCount to ten.\n\n"
        << std::string(400, 'x') + " Repeat.\n";
  }
  // Of `fathom COMMAND`, in several processes; 0: alone.
  static std::string output(int processes, const std::string& command, std::string* err = nullptr) {
    const std::string program = FATHOM_BINARY + (" " + command);
    Running r(processes == 0 ? program : fmt::format("{}-np {} {}", kMpirun, processes, program));
    EXPECT_EQ(r.wait(120), 0) << r.err();
    if (err) *err = r.err();
    return r.out();
  }

  int gpus_ = 0;
  TempFolder folder_;
};

TEST_F(MpirunGpuTest, GenerateSaysWhatRanksOfOneProcessSay) {
  const std::string command = "generate --ckpt-path " + kSmall + " --device cuda --input-file " +
                              folder_.file("prompts") + " --temperature 0 --max-new-tokens 16 ";
  for (const auto& [processes, layout] : {std::pair{2, "--tensor-parallel-size 2"},
                                          {2, "--data-parallel-size 2"},
                                          {2, "--tensor-parallel-size 2 --data-parallel-size 2"},
                                          {4, "--tensor-parallel-size 2 --data-parallel-size 2"}}) {
    const bool mixed = std::string(layout).size() > 30;
    if (mixed && gpus_ < 4) continue;
    SCOPED_TRACE(fmt::format("{} processes, {}", processes, layout));
    std::string err;
    EXPECT_EQ(output(processes, command + layout, &err), output(0, command + layout));
    EXPECT_THAT(err, HasSubstr(fmt::format(" of {} processes: cuda", processes))) << err;
  }
}

TEST_F(MpirunGpuTest, BenchMeasuresTheGpusOfAllProcesses) {
  for (const char* layout : {"--tensor-parallel-size 2", "--data-parallel-size 2"})
    EXPECT_THAT(output(2, "bench --ckpt-path " + kSmall +
                              " --device cuda --context 256 --batch 2 --decode-tokens 3 "
                              "--attention sparse " +
                              layout),
                HasSubstr("sparse   decode        256      2 "));
}

}  // namespace
}  // namespace fathom
