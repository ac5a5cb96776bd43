// Several processes, started by mpirun on this machine: the bits of as many ranks in one process,
// and what users get when processes do not fit together, or one is lost.
#include "cli/mpirun.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/processors.h"
#include "server/http_client.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using server::HttpClient;
using test::has_ended;
using test::kMpirun;
using test::kSmall;
using test::kTiny;
using test::Running;
using test::TempFolder;
using test::why_no_mpirun;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;

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

  std::string prompt_file(const std::string& text) {
    const std::string path = folder_.file("prompts");
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

// Also in groups of ranks: a group a process, several in each, one that lies in two, and one that
// process 0 has no rank of.
TEST_F(MpirunTest, GenerateSaysWhatThreadsSay) {
  const std::string prompts = prompt_file(
      "Hello!\n\nWhat is the capital of France?\n\nTell me a story.\n\nCount to ten.\n");
  const std::string arguments = "generate --ckpt-path " + kSmall + " --device cpu --input-file " +
                                prompts + " --temperature 0 --max-new-tokens 12 ";
  for (const auto& [processes, layout] : {std::pair{2, "--tensor-parallel-size 2"},
                                          {2, "--data-parallel-size 2"},
                                          {2, "--data-parallel-size 4"},
                                          {2, "--tensor-parallel-size 2 --data-parallel-size 2"},
                                          {4, "--tensor-parallel-size 2 --data-parallel-size 2"}}) {
    SCOPED_TRACE(fmt::format("{} processes, {}", processes, layout));
    const Ran alone = fathom(0, arguments + layout), spread = fathom(processes, arguments + layout);
    ASSERT_EQ(alone.code, 0) << alone.err;
    ASSERT_EQ(spread.code, 0) << spread.err;
    EXPECT_EQ(spread.out, alone.out);  // and once
  }
}

// Each process would otherwise start a thread for every core of the machine.
TEST_F(MpirunTest, ProcessesOfOneMachineShareItsCores) {
  const int alone = find_processors().threads();
  for (const char* layout : {"--tensor-parallel-size 2", "--data-parallel-size 2"}) {
    const Ran ran = fathom(2, "generate --ckpt-path " + kSmall +
                                  " --device cpu --temperature 0 --max-new-tokens 2 --input-file " +
                                  prompt_file("Hello!\n") + " " + layout);
    ASSERT_EQ(ran.code, 0) << ran.err;
    const int each = std::max(1, alone / 2);
    const std::string threads = fmt::format("{} thread{}", each, each == 1 ? "" : "s");
    EXPECT_THAT(ran.err,
                AllOf(HasSubstr("note: " + threads + " for each of 2 processes on this machine"),
                      HasSubstr(" of 2 processes: cpu, "), HasSubstr(" kernels, " + threads + ";"),
                      Not(HasSubstr("groups of:")), Not(HasSubstr("rank 0"))));
  }
  // More would wait for one another.
  const Ran ran = fathom(2, "generate --ckpt-path " + kSmall +
                                " --device cpu --threads 512 --max-new-tokens 2 --input-file " +
                                prompt_file("Hello!\n") + " --tensor-parallel-size 2");
  EXPECT_THAT(ran.err, HasSubstr(fmt::format("note: {} of 512 threads: no more can run at once",
                                             std::max(1, find_processors().at_once() / 2))));
}

TEST_F(MpirunTest, BenchMeasuresGroupsOfSeveralProcesses) {
  const Ran ran =
      fathom(2, "bench --ckpt-path " + kTiny +
                    " --device cpu --threads 1 --context 80 --batch 2 --decode-tokens 2 "
                    "--repeat 1 --data-parallel-size 2");
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("of each of 2 groups; tok/s of all together"));
}

TEST_F(MpirunTest, SelfcheckChecksTheRanksOfAllProcesses) {
  for (const auto& [processes, layout] : {std::pair{2, "--tensor-parallel-size 4"},
                                          {4, "--tensor-parallel-size 2 --data-parallel-size 2"}}) {
    const std::string arguments =
        "selfcheck --ckpt-path " + kTiny + " --device cpu --threads 2 --only ranks " + layout;
    const Ran alone = fathom(0, arguments), spread = fathom(processes, arguments);
    EXPECT_EQ(alone.code, 0) << alone.out << alone.err;
    EXPECT_EQ(spread.code, 0) << spread.out << spread.err;
    EXPECT_THAT(spread.out, AllOf(HasSubstr("exact equal  bf16 equal  fp8 equal"),
                                  HasSubstr("4 checks passed, 0 failed")));
    // The distance from one rank is the same to the last bit.
    const auto figure = [](const std::string& out) {
      const size_t at = out.find("KL mean");
      return at == std::string::npos ? "no figure" : out.substr(at, 30);
    };
    EXPECT_EQ(figure(spread.out), figure(alone.out));
  }
}

TEST_F(MpirunTest, ProcessesThatDoNotFitAreRefusedBeforeAnythingIsLoaded) {
  const std::string ids = ids_file(3);
  const std::string arguments = "logits --ckpt-path " + kTiny + " --device cpu --ids " + ids +
                                " --out " + folder_.file("out") + " --tensor-parallel-size ";
  Ran ran = fathom(2, arguments + "1");
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.err, HasSubstr("mpirun has started 2 processes, so a multiple of 2 is needed"));
  ran = fathom(2, arguments + "1 --data-parallel-size 3");
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.err, HasSubstr("3 groups of 1 ranks: mpirun has started 2 processes"));

  ran = fathom(2, "plan --ckpt-path " + kTiny + " --device cpu");
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.err, HasSubstr("fathom: plan runs in one process"));
  for (const char* command : {"eval parity", "bench serve", "bench kernels"}) {
    ran = fathom(2, command + (command[0] == 'e' ? " --ckpt-path " + kTiny : std::string()));
    EXPECT_EQ(ran.code, 2);
    EXPECT_THAT(ran.err, HasSubstr(fmt::format("fathom: {} runs in one process: start it without "
                                               "mpirun\n",
                                               command)));
  }

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

const std::string kServeAnywhere =
    "serve --ckpt-path " + kSmall + " --device cpu --port 0 --max-model-len 4096 ";
const std::string kServe = kServeAnywhere + "--tensor-parallel-size 2 ";
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
  EXPECT_THAT(r.err(), AllOf(Not(HasSubstr("has ended")), HasSubstr("plan: tp on processors: 2 "),
                             HasSubstr(", 2 processes of "), Not(HasSubstr("machines"))));
}

// Log-probabilities, penalties and a form of the answer, which process 0 works on with logits that
// the ranks of other groups send it; pages that were kept in a folder.
TEST_F(MpirunTest, GroupsServeWhatThreadsServe) {
  const std::string bodies[] = {
      R"({"messages":[{"role":"user","content":"Hello!"}],"temperature":0,"logprobs":true,"top_logprobs":3})",
      R"({"messages":[{"role":"user","content":"Count to ten."}],"temperature":0,"max_tokens":20,"frequency_penalty":1.5})",
      R"({"messages":[{"role":"user","content":"Name a colour."}],"temperature":0,"max_tokens":30,)"
      R"("response_format":{"type":"json_schema","json_schema":{"name":"c","schema":{"type":"object",)"
      R"("properties":{"name":{"enum":["red","blue"]}},"required":["name"],"additionalProperties":false}}}})",
      R"({"messages":[{"role":"user","content":"Tell me a story."}],"seed":7,"max_tokens":20,"logprobs":true})"};
  const auto answers = [&](int processes, const std::string& layout) {
    const std::string serve =
        FATHOM_BINARY + (" " + kServeAnywhere) + layout + " --cache-dir " + folder_.file("kept");
    Running r(processes == 0 ? serve : kMpirun + "-np " + std::to_string(processes) + " " + serve);
    const int port = r.port();
    std::vector<std::string> got;
    for (int round = 0; round < 2; ++round) {
      std::vector<HttpClient> clients;  // at once, so that each group gets some
      for (const std::string& body : bodies) {
        clients.emplace_back(port);
        EXPECT_TRUE(clients.back().post("/v1/chat/completions", body)) << r.err();
      }
      for (HttpClient& c : clients) {
        const std::string body = c.answer().body;
        const auto answer = nlohmann::json::parse(body, nullptr, false);
        got.push_back(answer.is_object() && answer.contains("choices") ? answer["choices"].dump()
                                                                       : body);
      }
    }
    ::kill(processes == 0 ? r.pid() : r.process(0), SIGTERM);
    EXPECT_EQ(r.wait(), 0) << r.err();
    return got;
  };
  for (const auto& [processes, layout] : {std::pair{2, "--data-parallel-size 2"},
                                          {4, "--tensor-parallel-size 2 --data-parallel-size 2"}}) {
    SCOPED_TRACE(layout);
    const auto alone = answers(0, layout);
    EXPECT_THAT(alone[2], AnyOf(HasSubstr("red"), HasSubstr("blue")));
    EXPECT_EQ(answers(processes, layout), alone);
  }
}

// Kills or stops one process while an answer is on its way.
void expect_end(int victim, int how, const std::string& flags, const std::string& cause,
                const std::string& serve = kServe) {
  Running r(kMpirun + "-np 2 " + FATHOM_BINARY + " " + serve + flags);
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

TEST_F(MpirunTest, AKilledFollowerEndsTheRequestsOfAllGroups) {
  expect_end(1, SIGKILL, "--data-parallel-size 2", "process 1 (", kServeAnywhere);
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
