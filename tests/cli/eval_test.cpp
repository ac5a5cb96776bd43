// fathom eval as a user runs it: exit codes, figures, what is skipped, and runs that go on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/run_fathom.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

using test::kSmall;

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class EvalCommand : public testing::Test {
 protected:
  struct Ran {
    int code = -1;
    std::string out, err;
    json object() const { return json::parse(out, nullptr, false); }
  };
  Ran run(const std::string& arguments, const std::string& model = kSmall) {
    const std::string command = std::string(FATHOM_BINARY) + " eval " + arguments +
                                " --device cpu --ckpt-path " + model + " >" + dir_.file("out") +
                                " 2>" + dir_.file("err");
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, test::read_file(dir_.file("out")),
            test::read_file(dir_.file("err"))};
  }
  std::string file(const std::string& name, const std::string& content) {
    test::write_file(dir_.file(name), content);
    return dir_.file(name);
  }
  std::string prose(const std::string& name, int sentences) {
    std::string s;
    for (int i = 0; i < sentences; ++i)
      s += "In the evening number " + std::to_string(i) +
           " the old man went down to the river, and he saw a boat there.\n";
    return file(name, s);
  }

  test::TempFolder dir_;
};

TEST_F(EvalCommand, PerplexityHasItsFiguresUnderTheirNames) {
  const std::string a = prose("a.txt", 12), b = prose("b.txt", 7);
  const Ran ran = run("perplexity --json --context 64 --stride 32 --text " + a + " " + b);
  ASSERT_EQ(ran.code, 0) << ran.err;
  const json j = ran.object();
  EXPECT_EQ(j["complete"], true);
  const json& task = j["tasks"][0];
  EXPECT_EQ(task["kind"], "perplexity");
  EXPECT_EQ(task["metric"], "nats_per_token");
  EXPECT_TRUE(task["comparisons"].empty());
  EXPECT_TRUE(task["skipped"].empty());
  const json& v = task["variants"][0];
  EXPECT_EQ(v["variant"], "sparse");
  EXPECT_GT(v["nats_per_token"], 1.0);
  EXPECT_LT(v["nats_per_token"], 6.0);
  EXPECT_GT(v["stderr"], 0.0);
  EXPECT_LT(v["low"], v["nats_per_token"]);
  EXPECT_GT(v["high"], v["nats_per_token"]);
  EXPECT_EQ(v["items"], task["items"]);
  EXPECT_NEAR(v["perplexity"].get<double>(), std::exp(v["nats_per_token"].get<double>()), 1e-9);
  const double bits = v["nats_per_token"].get<double>() * v["tokens"].get<double>() /
                      std::log(2.0) / v["bytes"].get<double>();
  EXPECT_NEAR(v["bits_per_byte"].get<double>(), bits, 1e-9);
  // The first token of each text is not predicted.
  const auto size = static_cast<int64_t>(fs::file_size(a) + fs::file_size(b));
  EXPECT_GT(v["bytes"], size - 20);
  EXPECT_LT(v["bytes"], size);
}

TEST_F(EvalCommand, SideBySideIsPaired) {
  const std::string text = prose("a.txt", 60);
  const Ran ran = run("perplexity --json --context 512 --attention sparse,dense --text " + text +
                      " --markdown " + dir_.file("t.md") + " --save-result " + dir_.file("t.json"));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const json task = ran.object()["tasks"][0];
  ASSERT_EQ(task["variants"].size(), 2u);
  const json& c = task["comparisons"][0];
  EXPECT_EQ(c["variant"], "sparse");
  EXPECT_EQ(c["reference"], "dense");
  EXPECT_NEAR(c["difference"].get<double>(),
              task["variants"][0]["nats_per_token"].get<double>() -
                  task["variants"][1]["nats_per_token"].get<double>(),
              1e-12);
  EXPECT_LT(c["stderr"], task["variants"][0]["stderr"]);
  EXPECT_THAT(c["verdict"].get<std::string>(), HasSubstr("nats a token at 95 %"));
  EXPECT_THAT(test::read_file(dir_.file("t.md")), AllOf(HasSubstr("| task |"), HasSubstr("|---|")));
  EXPECT_EQ(json::parse(test::read_file(dir_.file("t.json"))), ran.object());
}

// Another folder with the same files: another name for the same model.
TEST_F(EvalCommand, ACheckpointAgainstItsCopyIsIdentical) {
  const std::string copy = dir_.file("copy");
  fs::create_directory_symlink(kSmall, copy);
  const std::string text = prose("a.txt", 20);
  const Ran ran = run("perplexity --json --context 100 --text " + text, kSmall + "," + copy);
  ASSERT_EQ(ran.code, 0) << ran.err;
  const json c = ran.object()["tasks"][0]["comparisons"][0];
  EXPECT_EQ(c["difference"], 0.0);
  EXPECT_EQ(c["stderr"], 0.0);
  EXPECT_EQ(c["equal_items"], c["items"]);
  EXPECT_THAT(c["verdict"].get<std::string>(), HasSubstr("identical on all"));
}

TEST_F(EvalCommand, ASecondRunGoesOnWithTheSameDigits) {
  const std::string text = prose("a.txt", 30);
  const std::string command = "perplexity --json --context 64 --text " + text;
  const Ran whole = run(command);
  const std::string results = dir_.file("r.jsonl");
  ASSERT_EQ(run(command + " --sequences 2 --results " + results).code, 0);
  // Half of the lines, and half of one more.
  const std::string lines = test::read_file(results);
  size_t half = lines.size() / 2;
  test::write_file(results, lines.substr(0, half));
  const Ran rest = run(command + " --threads 1 --results " + results);
  ASSERT_EQ(rest.code, 0) << rest.err;
  json a = whole.object()["tasks"][0]["variants"][0], b = rest.object()["tasks"][0]["variants"][0];
  EXPECT_GT(b["items_kept"], 0);
  EXPECT_LT(b["items_kept"], b["items"]);
  EXPECT_LT(b["prompt_tokens"], a["prompt_tokens"]);
  for (const char* key : {"nats_per_token", "stderr", "low", "high", "bits_per_byte", "items"})
    EXPECT_EQ(a[key], b[key]) << key;
  // Nothing is computed a third time; another task's results are not taken for these.
  const Ran again = run(command + " --results " + results);
  EXPECT_EQ(again.object()["tasks"][0]["variants"][0]["prompt_tokens"], 0);
  const Ran other = run(command + " --stride 30 --results " + results);
  EXPECT_EQ(other.object()["tasks"][0]["variants"][0]["items_kept"], 0);
}

TEST_F(EvalCommand, CtrlCKeepsWhatIsDone) {
  const std::string text = prose("a.txt", 400), results = dir_.file("r.jsonl");
  const pid_t child = fork();
  if (child == 0) {
    (void)!freopen(dir_.file("out").c_str(), "w", stdout);
    (void)!freopen(dir_.file("err").c_str(), "w", stderr);
    execl(FATHOM_BINARY, FATHOM_BINARY, "eval", "perplexity", "--device", "cpu", "--ckpt-path",
          kSmall.c_str(), "--text", text.c_str(), "--context", "100", "--json", "--threads", "1",
          "--results", results.c_str(), nullptr);
    _exit(127);
  }
  for (int i = 0; i < 3000 && (!fs::exists(results) || fs::file_size(results) == 0); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  kill(child, SIGINT);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130) << test::read_file(dir_.file("err"));
  EXPECT_THAT(test::read_file(dir_.file("err")), HasSubstr("the same command goes on"));
  const json stopped = json::parse(test::read_file(dir_.file("out")));
  EXPECT_EQ(stopped["complete"], false);
  const int done = stopped["tasks"][0]["variants"][0]["items"];
  EXPECT_GT(done, 0);
  EXPECT_LT(done, stopped["tasks"][0]["items"]);
  const Ran rest = run("perplexity --json --context 100 --text " + text + " --results " + results);
  EXPECT_EQ(rest.code, 0);
  EXPECT_EQ(rest.object()["tasks"][0]["variants"][0]["items_kept"], done);
}

TEST_F(EvalCommand, NeedlesHaveCellsAndLayers) {
  const Ran ran =
      run("needles --json --lengths 100,500 --depths 0,1 --count 2 --svg " + dir_.file("n.svg"));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const json v = ran.object()["tasks"][0]["variants"][0];
  EXPECT_EQ(v["items"], 8);
  EXPECT_EQ(v["cells"].size(), 4u);
  ASSERT_EQ(v["picked_by_layer"].size(), 5u);
  for (const json& share : v["picked_by_layer"]) {
    EXPECT_GT(share, 0.0);
    EXPECT_LE(share, 1.0);
  }
  // Within top-k everything is picked.
  for (const json& cell : v["cells"])
    if (cell["length"] == 100) {
      EXPECT_EQ(cell["picked"], 1.0);
    }
  EXPECT_THAT(test::read_file(dir_.file("n.svg")), HasSubstr("recall by depth and length"));
  const Ran dense = run("needles --lengths 100 --depths 0 --count 1 --attention dense");
  EXPECT_EQ(dense.code, 0) << dense.err;
  EXPECT_THAT(dense.out, AllOf(HasSubstr("depth"), Not(HasSubstr("picked"))));
}

TEST_F(EvalCommand, ItemsThatCannotBeUsedAreCountedAndTold) {
  const std::string path =
      file("q.jsonl",
           "{\"question\": \"The dogs\", \"choices\": [\"are here\", \"is here\"], \"answer\": 0}\n"
           "{\"question\": \"The dog\", \"choices\": [\"are here\", \"is here\"]}\n"
           "{\"question\": \"The dog\", \"choices\": [\"are here\", \"is here\"], \"answer\": 4}\n"
           "not json\n");
  const Ran ran = run("choice --style text --file " + path);
  EXPECT_EQ(ran.code, 0);
  EXPECT_THAT(ran.err,
              AllOf(HasSubstr("q.jsonl:2: no field \"answer\""),
                    HasSubstr("q.jsonl:3: the answer is 4"), HasSubstr("q.jsonl:4: no JSON")));
  EXPECT_THAT(ran.out, HasSubstr("3 of 4 items skipped"));
  const Ran none = run("choice --file " + file("empty.jsonl", ""));
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.err, HasSubstr("empty.jsonl: no items"));
}

TEST_F(EvalCommand, AnswersAreGeneratedAndJudged) {
  const std::string path =
      file("a.jsonl",
           "{\"settings\": {\"chat\": true, \"match\": \"number\", \"max_new_tokens\": 16}}\n"
           "{\"prompt\": \"The pass key of Alice is 48213. The room number of Hugo is 2291. What "
           "is the pass key of Alice?\", \"expected\": 48213}\n"
           "{\"prompt\": \"Hello!\", \"expected\": 1}\n");
  const Ran ran = run("answer --json --file " + path);
  ASSERT_EQ(ran.code, 0) << ran.err;
  const json v = ran.object()["tasks"][0]["variants"][0];
  EXPECT_EQ(v["accuracy"], 0.5);
  EXPECT_EQ(v["unparsed"], 1);
  const std::string samples = "answer --json --samples 4 --seed 3 --file " + path;
  const Ran one = run(samples), two = run(samples + " --sequences 1 --threads 1");
  EXPECT_TRUE(one.object()["tasks"][0]["variants"][0].contains("pass_at_4"));
  EXPECT_EQ(one.object()["tasks"][0]["variants"][0]["accuracy"],
            two.object()["tasks"][0]["variants"][0]["accuracy"]);
}

TEST_F(EvalCommand, ParityRunsSeveralTasks) {
  const std::string questions =
      file("pairs.jsonl",
           "{\"settings\": {\"style\": \"text\"}}\n"
           "{\"question\": \"red 482, blue 913; red 482, blue\", \"choices\": [\"913\", \"482\"], "
           "\"answer\": \"913\"}\n"
           "{\"question\": \"The dogs\", \"choices\": [\"are here\", \"is here\"], "
           "\"answer\": 0}\n");
  const Ran ran = run("parity --tasks " + prose("prose.txt", 40) + "," + questions +
                      ",needles --context 256 --lengths 300 --depths 0.5 --count 2 --markdown " +
                      dir_.file("p.md") + " --svg " + dir_.file("p.svg"));
  ASSERT_EQ(ran.code, 0) << ran.err;
  for (const char* part : {"prose", "pairs", "needles", "sparse", "dense", "sparse - dense"})
    EXPECT_THAT(ran.out, HasSubstr(part));
  EXPECT_THAT(ran.out, HasSubstr("no difference larger than"));
  EXPECT_THAT(ran.out, HasSubstr("pairs: no text is longer than the 256 tokens that the indexer"));
  EXPECT_THAT(ran.out, Not(HasSubstr("needles: no text is longer")));
  EXPECT_THAT(test::read_file(dir_.file("p.md")), HasSubstr("| pairs | accuracy | 2 |"));
  EXPECT_THAT(test::read_file(dir_.file("p.svg")), HasSubstr("</svg>"));
}

TEST_F(EvalCommand, WrongUseIsToldAsSuch) {
  const std::string text = prose("a.txt", 3);
  const auto refused = [&](const std::string& arguments, int code) {
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, code) << arguments << ran.err;
    EXPECT_EQ(ran.out, "");
    return ran.err;
  };
  EXPECT_THAT(refused("perplexity --text " + text + " --context 9000", 2),
              HasSubstr("2 to 8191 tokens"));
  EXPECT_THAT(
      refused("perplexity --attention sparse,dense --numerics bf16,exact --text " + text, 2),
      HasSubstr("--attention and --numerics both have several values"));
  EXPECT_THAT(refused("perplexity --attention dense,dense --text " + text, 2),
              HasSubstr("names dense twice"));
  refused("perplexity --attention spares --text " + text, 2);
  refused("perplexity", 2);
  refused("", 2);
  EXPECT_THAT(refused("perplexity --text /no/such/file", 1), HasSubstr("/no/such/file"));
  EXPECT_THAT(refused("perplexity --text " + text + " --results " + text, 1),
              HasSubstr("no result of an evaluation"));
  EXPECT_THAT(refused("perplexity --text " + text + " --results /dev/full", 1),
              HasSubstr("cannot write /dev/full: it is a device"));
  for (const char* flag : {"--save-result", "--markdown"})
    EXPECT_THAT(refused("perplexity --text " + text + " " + flag + " /no/such/folder/f", 1),
                HasSubstr("cannot write /no/such/folder/f: No such file"));
  const std::string results = dir_.file("none.jsonl");
  const Ran two =
      run("perplexity --text " + text + " --results " + results, kSmall + ",/no/such/model");
  EXPECT_EQ(two.code, 1);
  EXPECT_THAT(two.err, HasSubstr("/no/such/model"));
  EXPECT_EQ(test::read_file(results), "");  // told before the first checkpoint was measured
  EXPECT_THAT(refused("needles --haystack " + file("blank.txt", " \n\n"), 1),
              HasSubstr("blank.txt: there is no text to plant in"));
  EXPECT_THAT(refused("needles --lengths 9000", 1), HasSubstr("the context has 8192"));
}

}  // namespace
}  // namespace fathom
