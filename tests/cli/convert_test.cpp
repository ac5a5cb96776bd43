// The converter as a process: killed, out of disk, and measured.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/run_fathom.h"
#include "support/shards.h"

namespace fathom {
namespace {

using test::expect_same_files;
using test::file_names;
using test::kTiny;
using test::looks_whole;
using test::TempFolder;
using ::testing::HasSubstr;
using Arguments = std::vector<std::string>;

struct Ended {
  int status = 0;  // exit code, or -signal
  int64_t peak_bytes = 0;
};

// The program running on its own, its output in `log`. `file_limit`: the greatest file it may
// write, which stands for a full disk.
class Child {
 public:
  Child(Arguments arguments, const std::string& log, rlim_t file_limit = RLIM_INFINITY) {
    arguments.insert(arguments.begin(), FATHOM_BINARY);
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ != 0) return;
    int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    if (file_limit != RLIM_INFINITY) {
      signal(SIGXFSZ, SIG_IGN);  // writing then fails with an errno, as on a full disk
      rlimit limit{file_limit, file_limit};
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    execv(argv[0], argv.data());
    _exit(127);
  }
  void kill_now() const { kill(pid_, SIGKILL); }
  Ended wait() {
    int status = 0;
    rusage usage{};
    EXPECT_EQ(wait4(pid_, &status, 0, &usage), pid_);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), usage.ru_maxrss * 1024};
  }

 private:
  pid_t pid_;
};

class ConvertProcess : public ::testing::Test {
 protected:
  Ended run(const Arguments& arguments, rlim_t file_limit = RLIM_INFINITY) {
    Ended ended = Child(arguments, scratch_.file("log"), file_limit).wait();
    log_ = test::read_file(scratch_.file("log"));
    return ended;
  }
  Arguments convert_to(const std::string& save, const std::string& from, int experts, int ranks) {
    return {"convert",
            "--hf-ckpt-path",
            from,
            "--save-path",
            save,
            "--n-experts",
            fmt::format("{}", experts),
            "--model-parallel",
            fmt::format("{}", ranks)};
  }

  // Large enough to be caught in the middle of: about 110 MB.
  std::string large() {
    TempFolder tiny;
    EXPECT_EQ(run({"make-checkpoint", "--preset", "tiny", "--out", tiny.path()}).status, 0) << log_;
    nlohmann::json config = nlohmann::json::parse(test::read_file(tiny.file("config.json")));
    config["hidden_size"] = 1024;
    config["moe_intermediate_size"] = 384;
    config["n_routed_experts"] = 48;
    test::write_file(scratch_.file("config.json"), config.dump());
    std::string out = scratch_.file("large");
    EXPECT_EQ(run({"make-checkpoint", "--config", scratch_.file("config.json"), "--seed", "5",
                   "--out", out})
                  .status,
              0)
        << log_;
    return out;
  }

  TempFolder scratch_;
  std::string log_;
};

TEST_F(ConvertProcess, SurvivesKillNine) {
  std::string source = large(), clean = scratch_.file("clean"), save = scratch_.file("save");
  Ended ended = run(convert_to(clean, source, 48, 2));
  ASSERT_EQ(ended.status, 0) << log_;
#if defined(__SANITIZE_ADDRESS__)
  constexpr int64_t kPeak = 200 << 20;  // shadow memory and freed blocks held back count too
#else
  constexpr int64_t kPeak = 100 << 20;
#endif
  EXPECT_LT(ended.peak_bytes, kPeak) << "memory must not follow the checkpoint's size";

  int caught = 0;
  for (int delay_ms : {0, 15, 40}) {
    Child child(convert_to(save, source, 48, 2), scratch_.file("log"));
    while (!std::filesystem::exists(save + "/.convert-part/model1-mp2.safetensors"))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    child.kill_now();
    if (child.wait().status == -SIGKILL) {
      ++caught;
      EXPECT_FALSE(file_names(save).count("config.json")) << "killed, yet it looks whole";
    }
    if (file_names(save).count("config.json")) break;  // a fast machine was done already
  }
  EXPECT_GT(caught, 0);
  EXPECT_EQ(run(convert_to(save, source, 48, 2)).status, 0) << log_;
  expect_same_files(save, clean);
  EXPECT_EQ(run(convert_to(save, source, 48, 2)).status, 0) << log_;
  EXPECT_THAT(log_, HasSubstr("already done"));
}

TEST_F(ConvertProcess, FullDiskLeavesNothing) {
  std::string save = scratch_.file("save");
  for (rlim_t limit : {rlim_t{20'000}, rlim_t{100'000}, rlim_t{3'000'000}}) {
    EXPECT_EQ(run(convert_to(save, kTiny, 12, 2), limit).status, 1) << limit;
    EXPECT_THAT(log_, HasSubstr("cannot write")) << limit;
    EXPECT_EQ(file_names(save), std::set<std::string>{}) << limit;
  }
  EXPECT_EQ(run({"make-checkpoint", "--preset", "tiny", "--out", save}, 3'000'000).status, 1);
  EXPECT_FALSE(looks_whole(save));
  EXPECT_EQ(run(convert_to(save, kTiny, 12, 2)).status, 0) << log_;
}

TEST_F(ConvertProcess, SaysWhatIsWrongAndWithWhichCode) {
  EXPECT_EQ(run(convert_to(scratch_.file("x"), kTiny, 16, 2)).status, 1);
  EXPECT_THAT(log_, HasSubstr("--n-experts is 16"));
  EXPECT_EQ(run({"convert", "--hf-ckpt-path", kTiny}).status, 2);
  EXPECT_EQ(run({"make-checkpoint", "--preset", "671b-layers=0", "--out", "x"}).status, 2);
  EXPECT_EQ(run({"make-checkpoint", "--out", "x"}).status, 2);
  EXPECT_EQ(run({"make-checkpoint", "--preset", "tiny", "--dtype", "fp4", "--out", "x"}).status, 2);
  EXPECT_EQ(
      run({"make-checkpoint", "--preset", "slice", "--dry-run", "--out", scratch_.file("slice")})
          .status,
      0);
  EXPECT_THAT(log_, HasSubstr("11989723584 bytes of weights"));
  EXPECT_FALSE(std::filesystem::exists(scratch_.file("slice")));
}

}  // namespace
}  // namespace fathom
