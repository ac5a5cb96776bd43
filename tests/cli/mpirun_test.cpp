// Several processes, started by mpirun on this machine: the bits of as many ranks in one process,
// and what users get when processes do not fit together, or one is lost.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>
#include <vector>

#include "cli/run_fathom.h"
#include "server/http_client.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using server::HttpClient;
using test::kSmall;
using test::kTiny;
using test::TempFolder;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// --bind-to none: a container may not let processes be bound.
const std::string kMpirun =
    "mpirun --allow-run-as-root --oversubscribe --bind-to none --mca btl self,vader,tcp ";

// Why there can be no test here; empty where there can.
std::string why_no_mpirun() {
  if (std::system("command -v mpirun >/dev/null") != 0) return "mpirun is not installed";
  if (std::system((std::string("ldd ") + FATHOM_BINARY + " | grep -q libmpi").c_str()) != 0)
    return "this build has no MPI";
  return {};
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

// A program with its output in files; ended with the test whatever happens.
class Running {
 public:
  explicit Running(const std::string& command) {
    std::vector<std::string> words = words_of(command);
    std::vector<char*> argv;
    for (std::string& w : words) argv.push_back(w.data());
    argv.push_back(nullptr);
    child_ = ::fork();
    if (child_ != 0) return;
    const auto open_as = [&](const char* name, int to) {
      ::dup2(::open(folder_.file(name).c_str(), O_CREAT | O_WRONLY, 0600), to);
    };
    ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
    open_as("out", STDOUT_FILENO);
    open_as("err", STDERR_FILENO);
    ::setenv("TMPDIR", "/tmp", 1);  // mpirun's own sockets need short names
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ~Running() {
    for (pid_t p : processes()) ::kill(p, SIGKILL);
    if (child_ > 0) ::kill(child_, SIGKILL);
    if (child_ > 0) ::waitpid(child_, nullptr, 0);
  }
  std::string out() const { return test::read_file(folder_.file("out")); }
  std::string err() const { return test::read_file(folder_.file("err")); }
  pid_t pid() const { return child_; }

  // The processes that mpirun has started.
  std::vector<pid_t> processes() const {
    std::vector<pid_t> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const pid_t p = std::atoi(entry.path().filename().c_str());
      std::ifstream stat(entry.path() / "stat");
      std::string name, state;
      pid_t number = 0, parent = 0;
      if (p > 0 && stat >> number >> name >> state >> parent && parent == child_ && state != "Z")
        found.push_back(p);
    }
    return found;
  }
  // That which computes as process `rank`.
  pid_t process(int rank) const {
    for (pid_t p : processes()) {
      std::ifstream in("/proc/" + std::to_string(p) + "/environ", std::ios::binary);
      const std::string variables{std::istreambuf_iterator<char>(in), {}};
      if (variables.find("OMPI_COMM_WORLD_RANK=" + std::to_string(rank)) != std::string::npos)
        return p;
    }
    return -1;
  }
  // The exit code, once it has ended; -1 if it does not within `seconds`.
  int wait(int seconds = 60) {
    int status = 0;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    while (::waitpid(child_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > give_up) return -1;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // The port of a server, once it listens; 0 if that does not come.
  int port() const {
    const std::string listening = "listening on http://127.0.0.1:";
    for (int look = 0; look < 12000; ++look) {
      const std::string said = out();
      if (const size_t at = said.find(listening);
          at != std::string::npos && said.find('\n', at) != std::string::npos)
        return std::atoi(said.c_str() + at + listening.size());
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return 0;
  }

 private:
  TempFolder folder_;
  pid_t child_ = -1;
};

class MpirunTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string why = why_no_mpirun();
    if (why.empty()) return;
    if (std::getenv("CI")) FAIL() << why;
    GTEST_SKIP() << why;
  }

  struct Ran {
    int code;
    std::string out, err;
  };
  static Ran run(const std::string& command) {
    Running r(command);
    const int code = r.wait();
    return {code, r.out(), r.err()};
  }
  // `fathom ARGUMENTS` in several processes; 0: alone.
  static Ran fathom(int processes, const std::string& arguments) {
    const std::string program = FATHOM_BINARY + (" " + arguments);
    return run(processes == 0 ? program
                              : kMpirun + "-np " + std::to_string(processes) + " " + program);
  }

  std::string ids_file(int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += std::to_string((i * 7919 + 13) % 500) + " ";
    const std::string path = folder_.file("ids");
    std::ofstream(path) << text;
    return path;
  }

  TempFolder folder_;
};

TEST_F(MpirunTest, LogitsHaveTheBitsOfThreads) {
  const std::string arguments = "logits --ckpt-path " + kTiny + " --device cpu --threads 2 --ids " +
                                ids_file(150) +
                                " --rows 0,63,64,70,149 --step-tokens 140 --taps --out ";
  for (const char* flags :
       {" --numerics exact --tensor-parallel-size 2", " --numerics bf16 --tensor-parallel-size 4",
        " --numerics fp8 --tensor-parallel-size 2"}) {
    SCOPED_TRACE(flags);
    const std::string threads = folder_.file("threads"), processes = folder_.file("processes");
    const Ran alone = fathom(0, arguments + threads + flags);
    ASSERT_EQ(alone.code, 0) << alone.err;
    const Ran spread = fathom(2, arguments + processes + flags);
    ASSERT_EQ(spread.code, 0) << spread.err;
    EXPECT_EQ(test::read_file(threads), test::read_file(processes));
    fs::remove(threads);
    fs::remove(processes);
  }
}

TEST_F(MpirunTest, GenerateSaysWhatThreadsSay) {
  const std::string prompts = folder_.file("prompts");
  std::ofstream(prompts) << "Hello!\n\nWhat is the capital of France?\n";
  const std::string arguments = "generate --ckpt-path " + kSmall + " --device cpu --input-file " +
                                prompts +
                                " --temperature 0 --max-new-tokens 12 --tensor-parallel-size 2";
  const Ran alone = fathom(0, arguments), spread = fathom(2, arguments);
  ASSERT_EQ(spread.code, 0) << spread.err;
  EXPECT_EQ(spread.out, alone.out);  // and once
}

TEST_F(MpirunTest, ProcessesThatDoNotFitAreRefusedBeforeAnythingIsLoaded) {
  const std::string ids = ids_file(3);
  const std::string arguments = "logits --ckpt-path " + kTiny + " --device cpu --ids " + ids +
                                " --out " + folder_.file("out") + " --tensor-parallel-size ";
  Ran ran = fathom(2, arguments + "1");
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.err, HasSubstr("mpirun has started 2 processes, so a multiple of 2 is needed"));

  const std::string program = std::string("-np 1 ") + FATHOM_BINARY + " ";
  ran = run(kMpirun + program + arguments + "2 : " + program + arguments + "4");
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, AllOf(HasSubstr("is \"2\" for process 0 ("),
                             HasSubstr(" and \"4\" for process 1 (")));

  // The same words, another folder: its weights differ in one byte.
  for (const char* name : {"a", "b"}) {
    fs::create_directories(folder_.file(name));
    fs::copy(kTiny, folder_.file(name) + "/model");
  }
  const std::string weights = folder_.file("b") + "/model/model-00001-of-000002.safetensors";
  {
    std::fstream changed(weights, std::ios::in | std::ios::out | std::ios::binary);
    changed.seekg(0);
    uint64_t header = 0;
    changed.read(reinterpret_cast<char*>(&header), sizeof(header));
    changed.seekp(static_cast<std::streamoff>(8 + header));
    changed.put('\x11');
  }
  const std::string there = std::string(" ") + FATHOM_BINARY +
                            " logits --ckpt-path model --device cpu --ids " + ids + " --out " +
                            folder_.file("out") + " --tensor-parallel-size 2 ";
  ran = run(kMpirun + "-np 1 -wdir " + folder_.file("a") + there + ": -np 1 -wdir " +
            folder_.file("b") + there);
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, AllOf(HasSubstr("process 1 ("), HasSubstr("another checkpoint"),
                             HasSubstr("process 0 (")));
}

const std::string kServe = "serve --ckpt-path " + kSmall +
                           " --device cpu --port 0 --tensor-parallel-size 2 --max-model-len 4096 ";
const std::string kStoryStream =
    R"({"messages":[{"role":"user","content":"Tell me a story."}],"stream":true,)"
    R"("ignore_eos":true,"max_tokens":4000})";

TEST_F(MpirunTest, ServesAndStopsWhenTold) {
  Running r(kMpirun + "-np 2 " + FATHOM_BINARY + " " + kServe);
  HttpClient c(r.port());
  ASSERT_TRUE(c.post("/v1/chat/completions",
                     R"({"messages":[{"role":"user","content":"Hello!"}],"temperature":0})"));
  EXPECT_THAT(c.answer().body, HasSubstr("Hello! How can I help you today?"));
  ::kill(r.process(0), SIGTERM);
  EXPECT_EQ(r.wait(), 0) << r.err();
  EXPECT_THAT(r.err(), Not(HasSubstr("has ended")));
}

bool has_ended(pid_t process) {
  std::ifstream stat("/proc/" + std::to_string(process) + "/stat");
  std::string number, name, state;
  return !(stat >> number >> name >> state) || state == "Z";
}

// Kills or stops one process while an answer is on its way.
void expect_end(int victim, int how, const std::string& flags, const std::string& cause) {
  Running r(kMpirun + "-np 2 " + FATHOM_BINARY + " " + kServe + flags);
  HttpClient c(r.port());
  ASSERT_TRUE(c.post("/v1/chat/completions", kStoryStream));
  ASSERT_THAT(c.read_until("data: {"), HasSubstr("200 OK"));
  const pid_t other = r.process(1 - victim);
  const auto begin = std::chrono::steady_clock::now();
  ::kill(r.process(victim), how);
  const std::string rest = c.read_to_end();
  if (victim != 0) {
    EXPECT_THAT(rest, HasSubstr("error"));
    EXPECT_TRUE(rest.ends_with("0\r\n\r\n"))
        << rest.substr(rest.size() > 300 ? rest.size() - 300 : 0);
  }
  EXPECT_GT(r.wait(20), 0);
  while (!has_ended(other) && std::chrono::steady_clock::now() - begin < std::chrono::seconds(20))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  EXPECT_THAT(r.err(), HasSubstr(cause));
}

TEST_F(MpirunTest, AKilledFollowerEndsRequestsAndProgram) {
  expect_end(1, SIGKILL, "", "process 1 (");
}

TEST_F(MpirunTest, WithoutProcess0TheOthersEnd) { expect_end(0, SIGKILL, "", "process 0 ("); }

TEST_F(MpirunTest, AStoppedFollowerEndsRequestsAndProgram) {
  expect_end(1, SIGSTOP, "--exchange-timeout 1", "has not been heard of for 1 s");
}

TEST_F(MpirunTest, AStoppedProcess0EndsTheOthers) {
  expect_end(0, SIGSTOP, "--exchange-timeout 1", "has not been heard of for 1 s");
}

// The follower may not take as much memory as its cache needs.
TEST_F(MpirunTest, AFollowerThatThrowsTellsItsReason) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer takes more addresses than any limit";
#endif
  const std::string limited = folder_.file("limited.sh");
  std::ofstream(limited) << "#!/bin/sh\nulimit -v 900000\nexec \"$@\"\n";
  fs::permissions(limited, fs::perms::owner_all);
  const std::string program = std::string(FATHOM_BINARY) + " serve --ckpt-path " + kSmall +
                              " --device cpu --port 0 --tensor-parallel-size 2 ";
  const Ran ran = run(kMpirun + "-np 1 " + program + ": -np 1 " + limited + " " + program);
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, HasSubstr("fathom: rank 1 of 2: cannot allocate"));
}

TEST(LauncherTest, AnotherMpiOrABuildWithoutOneIsToldWhatIsMissing) {
  const auto first_of_two = [](const char* kind) {
    Running r(std::string("env ") + kind + "_SIZE=2 " + kind + "_RANK=0 " + FATHOM_BINARY +
              " inspect " + kTiny);
    EXPECT_EQ(r.wait(), 1);
    return r.err();
  };
  EXPECT_THAT(first_of_two("PMI"), HasSubstr("an MPI that is not Open MPI"));
  if (why_no_mpirun() == "this build has no MPI") {
    EXPECT_THAT(first_of_two("OMPI_COMM_WORLD"), HasSubstr("this build of fathom has no MPI"));
  }
}

}  // namespace
}  // namespace fathom
