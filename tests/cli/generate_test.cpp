// generate and chat as a user meets them: the program itself, by pipes and once by a terminal.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/processors.h"
#include "cli/run_fathom.h"

namespace fathom {
namespace {

using test::kSmall;

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// What the oracle says to "Hello!", greedily (tests/data/golden/small-hello.safetensors).
const std::string kHello = "Hello! How can I help you today?";

class GenerateTest : public testing::Test {
 protected:
  void SetUp() override {
    static std::atomic<int> count = 0;
    folder_ = fs::temp_directory_path() /
              ("fathom_generate_" + std::to_string(getpid()) + "_" + std::to_string(++count));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string file(const std::string& name, const std::string& content) {
    const std::string path = folder_ / name;
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  struct Ran {
    int code;
    std::string out, err;
  };
  Ran run(const std::string& arguments, const std::string& input = "") {
    const std::string in = file("in", input);
    const std::string command = std::string(FATHOM_BINARY) + " " + arguments + " <" + in + " >" +
                                (folder_ / "out").string() + " 2>" + (folder_ / "err").string();
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(folder_ / "out"),
            read(folder_ / "err")};
  }
  Ran generate(const std::string& arguments, const std::string& input = "") {
    return run(
        "generate --ckpt-path " + kSmall + " --device cpu --threads 1 " +
            (arguments.find("--temperature") == std::string::npos ? "--temperature 0 " : "") +
            arguments,
        input);
  }
  Ran chat(const std::string& arguments, const std::string& input) {
    return run("chat " + kSmall + " --device cpu --threads 1 --temperature 0 " + arguments, input);
  }

  fs::path folder_;
};

std::vector<json> objects(const std::string& lines) {
  std::vector<json> all;
  std::istringstream in(lines);
  for (std::string line; std::getline(in, line);) all.push_back(json::parse(line));
  return all;
}

TEST_F(GenerateTest, InteractiveKeepsTheReleasesHabits) {
  Ran r = generate("--interactive --numerics exact", "Hello!\n/clear\nHello!\n/exit\nHello!\n");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, ">>> " + kHello + "\n>>> >>> " + kHello + "\n>>> ");
  EXPECT_THAT(r.err, AllOf(HasSubstr("exact numerics"), HasSubstr("prompt: 14 tokens"),
                           HasSubstr("generation: 20 tokens")));
  EXPECT_EQ(generate("--interactive", "").code, 0) << "the end of input is an end";
}

TEST_F(GenerateTest, RanksSayWhatOneSays) {
  Ran r = generate("--interactive --numerics exact --tensor-parallel-size 2", "Hello!\n");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, ">>> " + kHello + "\n>>> ");
  EXPECT_THAT(r.err, AllOf(HasSubstr("2 ranks: cpu"), Not(HasSubstr("rank 0"))));
  // One rank speaks for all.
  EXPECT_THAT(r.err, Not(HasSubstr("rank 1 of 2")));
  EXPECT_EQ(r.err.find("numerics"), r.err.rfind("numerics")) << r.err;
  r = generate("--interactive --tensor-parallel-size 3", "Hello!\n");
  EXPECT_EQ(r.code, 1);
  EXPECT_THAT(r.err, HasSubstr("a tensor-parallel size of 3 does not fit this model: "
                               "num_attention_heads = 4 is not divisible by it; 1, 2, 4 would"));
}

// More threads than processors would wait for one another.
TEST_F(GenerateTest, NoMoreThreadsThanCanRunAtOnce) {
  const int at_once = find_processors().at_once();
  const std::string words = "generate --ckpt-path " + kSmall +
                            " --device cpu --temperature 0 --max-new-tokens 4 --interactive "
                            "--threads ";
  const Ran all = run(words + std::to_string(at_once), "Hello!\n"),
            more = run(words + std::to_string(at_once + 3), "Hello!\n");
  EXPECT_EQ(more.code, 0) << more.err;
  EXPECT_EQ(more.out, all.out);
  const std::string note =
      fmt::format("note: {} of {} threads: no more can run at once here\n", at_once, at_once + 3);
  EXPECT_THAT(more.err, HasSubstr(note));
  EXPECT_THAT(all.err, Not(HasSubstr("at once")));
}

// The release's two commands. Without a GPU for each file one rank computes all of them.
TEST_F(GenerateTest, AConvertedFolderNeedsNoSize) {
  const std::string save = (folder_ / "mp2").string();
  Ran r = run("convert --hf-ckpt-path " + kSmall + " --save-path " + save +
              " --n-experts 16 --model-parallel 2");
  ASSERT_EQ(r.code, 0) << r.err;
  const std::string words = "generate --ckpt-path " + save + " --config " + kSmall +
                            "/config.json --interactive --temperature 0 --numerics exact"
                            " --threads 2";
  r = run(words, "Hello!\n");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, ">>> " + kHello + "\n>>> ");
  EXPECT_THAT(r.err, HasSubstr("note: " + save +
                               " is converted for 2 ranks: here one rank "
                               "computes it on processors\n"));
  r = run(words + " --tensor-parallel-size 2", "Hello!\n");
  EXPECT_EQ(r.out, ">>> " + kHello + "\n>>> ");
  EXPECT_THAT(r.err, AllOf(HasSubstr("2 ranks: cpu"), Not(HasSubstr("is converted for"))));
}

TEST_F(GenerateTest, InteractiveRemembersUntilCleared) {
  // The second question's prompt holds the first one and its answer.
  std::vector<json> a =
      objects(generate("--interactive --json", "Hello!\nHello!\n/clear\nHello!\n").out);
  ASSERT_EQ(a.size(), 3u);
  EXPECT_EQ(a[0]["message"]["content"], kHello);
  EXPECT_EQ(a[0]["usage"]["prompt_tokens"], 7);
  EXPECT_GT(a[1]["usage"]["prompt_tokens"], 15);
  EXPECT_EQ(a[2]["token_ids"], a[0]["token_ids"]);
}

TEST_F(GenerateTest, InteractiveGoesOnAfterBadInput) {
  std::string longest;
  for (int i = 0; i < 200; ++i) longest += "word ";
  Ran r = generate("--interactive --max-context 100",
                   "\n  \n\xff\xfe\n" + longest + "\n/nosuch\nHello!");  // no newline at the end
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.err, AllOf(HasSubstr("the prompt is empty"), HasSubstr("invalid UTF-8 at byte 0"),
                           HasSubstr("with a context of 100")));
  EXPECT_THAT(r.out, HasSubstr(">>> >>> >>> >>> >>> "));
  EXPECT_THAT(r.out, Not(HasSubstr("\xff")));
}

TEST_F(GenerateTest, FileOfPromptsIsOneBatch) {
  const std::string prompts = file("p", "\n\nHello!\r\n \t\nTell me\na story.\n\n\n\nHello!");
  Ran r = generate("--max-new-tokens 16 --input-file " + prompts);
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, StartsWith("Prompt: Hello!\nCompletion: " + kHello +
                                "\n\nPrompt: Tell me\na story.\nCompletion: "));
  EXPECT_THAT(r.out, testing::EndsWith("Prompt: Hello!\nCompletion: " + kHello + "\n\n"));
  EXPECT_EQ(generate("--max-new-tokens 16 --batch 1 --input-file " + prompts).out, r.out);
  EXPECT_EQ(generate("--max-new-tokens 16 --chunk 3 --input-file -", read(prompts)).out, r.out);
}

// One name for a size in every command; former names and vLLM's say the same. The plan is printed.
TEST_F(GenerateTest, SizesHaveOneNameAndTheOthersStay) {
  const std::string prompts = file("p", "Hello!\n");
  const std::string want = "steps of 3 tokens, context 100 tokens,";
  for (const char* names : {"--step-tokens 3 --context 100", "--chunk 3 --max-context 100",
                            "--max-num-batched-tokens 3 --max-model-len 100"}) {
    Ran r = generate("--max-new-tokens 4 --input-file " + prompts + " " + names);
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_THAT(r.err, HasSubstr(want)) << names;
  }
}

TEST_F(GenerateTest, ABadPromptFailsAloneAndTheCodeSaysSo) {
  std::string longest;
  for (int i = 0; i < 200; ++i) longest += "word ";
  const std::string prompts = file("p", longest + "\n\n\xc3(\n\nHello!\n");
  Ran r = generate("--max-context 100 --input-file " + prompts);
  EXPECT_EQ(r.code, 1);
  EXPECT_THAT(r.err, AllOf(HasSubstr("prompt 1: the prompt has"),
                           HasSubstr("prompt 2: the prompt: invalid UTF-8")));
  EXPECT_THAT(r.out, HasSubstr("Prompt: Hello!\nCompletion: " + kHello));

  Ran j = generate("--json --max-context 100 --input-file " + prompts);
  EXPECT_EQ(j.code, 1);
  std::vector<json> a = objects(j.out);
  ASSERT_EQ(a.size(), 3u);
  EXPECT_THAT(a[0]["error"]["message"].get<std::string>(), HasSubstr("context of 100"));
  EXPECT_THAT(a[1]["error"]["message"].get<std::string>(), HasSubstr("UTF-8"));
  EXPECT_EQ(a[2]["message"]["content"], kHello);
  EXPECT_EQ(a[2]["index"], 2);
}

TEST_F(GenerateTest, JsonHasEverything) {
  std::vector<json> a =
      objects(generate("--numerics exact --json --input-file " + file("p", "Hello!")).out);
  ASSERT_EQ(a.size(), 1u);
  const json& j = a[0];
  EXPECT_EQ(j["prompt"], "Hello!");
  EXPECT_EQ(j["message"], (json{{"role", "assistant"}, {"content", kHello}}));
  EXPECT_EQ(j["finish_reason"], "stop");
  EXPECT_EQ(j["token_ids"], (json{56, 3534, 17, 805, 508, 315, 702, 322, 1774, 47, 1}));
  EXPECT_EQ(j["usage"]["prompt_tokens"], 7);
  EXPECT_EQ(j["usage"]["completion_tokens"], 11);
  EXPECT_EQ(j["usage"]["total_tokens"], 18);
  EXPECT_GT(j["timings"]["generated_per_second"], 0);
}

TEST_F(GenerateTest, DraftsChangeTheFiguresAlone) {
  const std::string prompts = file("p", "Tell me a story about a fox.\n\nHello!\n");
  const std::string arguments =
      "--temperature 0.6 --seed 3 --max-new-tokens 24 --json --input-file " + prompts;
  const Ran plain = generate(arguments + " --speculative-tokens 0");
  const std::vector<json> want = objects(plain.out);
  ASSERT_EQ(want.size(), 2u);
  EXPECT_THAT(plain.err, Not(HasSubstr("drafts")));
  for (const char* flags :
       {" --speculative-tokens 2", " --speculative-tokens 4 --speculative-always",
        " --speculative-config '{\"method\": \"mtp\", \"num_speculative_tokens\": 1}'"}) {
    const Ran r = generate(arguments + flags);
    const std::vector<json> got = objects(r.out);
    ASSERT_EQ(got.size(), 2u) << flags << r.err;
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(got[i]["token_ids"], want[i]["token_ids"]) << flags;
      EXPECT_EQ(got[i]["message"], want[i]["message"]) << flags;
      EXPECT_EQ(got[i]["usage"]["completion_tokens"], want[i]["usage"]["completion_tokens"]);
      const json& details = got[i]["usage"]["completion_tokens_details"];
      EXPECT_GT(details["accepted_prediction_tokens"].get<int>() +
                    details["rejected_prediction_tokens"].get<int>(),
                0);
    }
    EXPECT_THAT(r.err, HasSubstr(" accepted")) << flags;
  }
  const Ran stats = chat("--speculative-tokens 1 --speculative-always", "Hello!\n/stats\n");
  EXPECT_THAT(stats.err, HasSubstr("drafts accepted")) << stats.err;
}

TEST_F(GenerateTest, DraftsThatCannotBeHadAreRefused) {
  std::string config = read(kSmall + "/config.json");
  const std::string layers = "\"num_nextn_predict_layers\": 1";
  ASSERT_NE(config.find(layers), std::string::npos);
  config.replace(config.find(layers), layers.size(), "\"num_nextn_predict_layers\": 0");
  const std::string without = " --config " + file("config.json", config);
  for (const auto& [arguments, code, says] : std::vector<std::tuple<std::string, int, const char*>>{
           {"--speculative-tokens 1" + without, 1, "this checkpoint has no MTP block"},
           {"--speculative-tokens 0" + without, 0, ""},
           {"--speculative-tokens 5", 2, "--speculative-tokens"},
           {"--speculative-config '{\"method\": \"ngram\"}'", 2, "method is \"ngram\""},
           {"--speculative-config '{\"num_speculative_tokens\": 9}'", 2, "9: {\"method\""},
           {"--speculative-config '{\"model\": \"x\"}'", 2, "model is unknown"},
           {"--speculative-config 1", 2, "no JSON object"},
           {"--speculative-tokens 1 --speculative-config {}", 2, "excludes"}}) {
    const Ran r = generate(arguments + " --interactive", "");
    EXPECT_EQ(r.code, code) << arguments << r.err;
    EXPECT_THAT(r.err, HasSubstr(says)) << arguments;
  }
}

TEST_F(GenerateTest, StopsAtTheLimitAndAtTheContextsEnd) {
  const std::string prompts = file("p", "Tell me a story.");
  json limit = objects(generate("--json --max-new-tokens 3 --input-file " + prompts).out).at(0);
  EXPECT_EQ(limit["finish_reason"], "length");
  EXPECT_EQ(limit["token_ids"].size(), 3u);
  json end = objects(generate("--json --max-context 20 --input-file " + prompts).out).at(0);
  EXPECT_EQ(end["finish_reason"], "length");
  EXPECT_EQ(end["usage"]["total_tokens"], 20);
}

TEST_F(GenerateTest, RawTextGoesInAsItIs) {
  const std::string marked =
      file("p", "<｜begin▁of▁sentence｜><｜User｜>Hello!<｜Assistant｜></think>");
  json j = objects(generate("--raw --json --input-file " + marked).out).at(0);
  EXPECT_EQ(j["text"], kHello);
  EXPECT_EQ(j["usage"]["prompt_tokens"], 7);
  // In a template the same text is only text.
  json plain = objects(generate("--json --max-new-tokens 1 --input-file " + marked).out).at(0);
  EXPECT_GT(plain["usage"]["prompt_tokens"], 15);
  json raw =
      objects(generate("--raw --json --max-new-tokens 1 --input-file " + file("q", "Hello!")).out)
          .at(0);
  EXPECT_EQ(raw["usage"]["prompt_tokens"], 3);
}

TEST_F(GenerateTest, MessagesWithToolsGiveAToolCall) {
  const std::string messages = file("m.json", R"({"messages":[
    {"role":"user","content":"What is the weather in Paris?"}],"tools":[{"type":"function",
    "function":{"name":"get_weather","description":"Get the weather","parameters":{
    "type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]})");
  Ran r = generate("--json --messages " + messages);
  EXPECT_EQ(r.code, 0) << r.err;
  json j = objects(r.out).at(0);
  EXPECT_EQ(j["finish_reason"], "tool_calls");
  const json& call = j["message"]["tool_calls"].at(0)["function"];
  EXPECT_EQ(call["name"], "get_weather");
  EXPECT_TRUE(json::parse(call["arguments"].get<std::string>()).contains("city"));
}

TEST_F(GenerateTest, ThinkingBeginsInsideTheReasoning) {
  const std::string prompts = file("p", "What is 2 plus 3?");
  json j =
      objects(generate("--json --thinking --max-new-tokens 30 --input-file " + prompts).out).at(0);
  EXPECT_FALSE(j["message"]["reasoning_content"].get<std::string>().empty());
  json without = objects(generate("--json --max-new-tokens 5 --input-file " + prompts).out).at(0);
  EXPECT_FALSE(without["message"].contains("reasoning_content"));
}

TEST_F(GenerateTest, SeedsDecideWhatIsDrawn) {
  const std::string prompts = file("p", "Tell me a story.\n\nTell me a story.");
  auto drawn = [&](const std::string& arguments) {
    std::vector<json> ids;
    for (const json& j : objects(generate("--json --temperature 1 --max-new-tokens 12 " +
                                          arguments + " --input-file " + prompts)
                                     .out))
      ids.push_back(j["token_ids"]);
    return ids;
  };
  std::vector<json> first = drawn("--seed 1");
  ASSERT_EQ(first.size(), 2u);
  EXPECT_EQ(first[0], first[1]);
  EXPECT_EQ(drawn("--seed 1 --batch 1 --chunk 4"), first);
  EXPECT_NE(drawn("--seed 2"), first);
  EXPECT_NE(drawn("--seed 1 --top-k 1"), first);
  std::vector<json> none = drawn("");
  EXPECT_NE(none[0], none[1]) << "without a seed every prompt has its own";
}

TEST_F(GenerateTest, UsageErrorsAreTwoAndTheWorldsAreOne) {
  const std::string p = file("p", "Hello!"), empty = file("e", " \n\n");
  struct Row {
    std::string arguments;
    int code;
    const char* says;
  };
  const std::string small = "generate --ckpt-path " + kSmall;
  for (const Row& row : std::vector<Row>{
           {"generate --interactive", 2, "--ckpt-path"},
           {small, 2, "input"},
           {small + " --interactive --input-file " + p, 2, "input"},
           {small + " --interactive --nosuch", 2, "--nosuch"},
           {small + " --interactive --temperature -1", 2, "--temperature"},
           {small + " --interactive --temperature warm", 2, "--temperature"},
           {small + " --interactive --top-p 0", 2, "--top-p"},
           {small + " --interactive --min-p 1.5", 2, "--min-p"},
           {small + " --interactive --temperature nan", 2, "--temperature"},
           {small + " --interactive --min-p nan", 2, "--min-p"},
           {small + " --interactive --exchange-timeout nan", 2, "--exchange-timeout"},
           {small + " --interactive --top-k -1", 2, "--top-k"},
           {small + " --interactive --max-new-tokens 0", 2, "--max-new-tokens"},
           {small + " --interactive --chunk 0", 2, "--chunk"},
           {small + " --interactive --step-tokens 0", 2, "--step-tokens"},
           {small + " --interactive --context 100 --max-context 100", 2, "--context"},
           {small + " --interactive --numerics int4", 2, "--numerics"},
           {small + " --interactive --encoding v4", 2, "--encoding"},
           {small + " --interactive --raw --thinking", 2, "--raw"},
           {small + " --messages " + p + " --raw", 2, "--raw"},
           {small + "/nothing --interactive", 1, "nothing"},
           {small + " --input-file " + folder_.string() + "/none", 1, "cannot open"},
           {small + " --input-file " + empty, 1, "no prompts"},
           {small + " --messages " + p, 1, "not valid JSON"},
           {small + " --interactive --device tpu", 2, "--device"},
           {small + " --interactive --device cuda --numerics exact", 2, "for the CPU only"},
           {small + " --interactive --device cuda --kv f32", 2, "for the CPU only"},
           {small + " --interactive --index-budget 0", 2, "--index-budget"},
           {small + " --messages " + file("m", R"([{"role":"tool","content":"5"}])"), 1, "tool"},
           {small + " --messages " + file("n", R"([{"role":"poet","content":"5"}])"), 1, "poet"},
           {small + " --interactive --max-context 9000", 2, "8192"},
           {small + " --interactive --system '\xff'", 1, "UTF-8"},
           {"generate --ckpt-path " + folder_.string() + " --interactive", 1, "config.json"},
           {"generate --help", 0, nullptr},
           {"chat --help", 0, nullptr},
           {"chat " + folder_.string(), 1, "config.json"},
           {"chat --thinking --nosuch", 2, "--nosuch"}}) {
    Ran r = run(row.arguments);
    EXPECT_EQ(r.code, row.code) << row.arguments << "\n" << r.err;
    if (row.says) {
      EXPECT_THAT(r.err + r.out, HasSubstr(row.says)) << row.arguments;
    }
  }
}

TEST_F(GenerateTest, ChatWithoutATerminalIsPlain) {
  const std::string saved = folder_ / "saved.json";
  Ran r = chat("--max-new-tokens 20", "/help\nHello!\n/stats\n/nosuch\n/thinking maybe\n/save " +
                                          saved + "\n/clear\n/load " + saved + "\n/load " +
                                          folder_.string() + "/none\n/save\n\xff\n   \nHello!\n");
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.out, StartsWith(kHello + "\n"));
  EXPECT_THAT(r.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(r.out, Not(HasSubstr(">>>")));
  EXPECT_THAT(r.err, AllOf(HasSubstr("/thinking on|off"), HasSubstr("last: prompt 7 tokens"),
                           HasSubstr("unknown command /nosuch"), HasSubstr("it is off"),
                           HasSubstr("2 messages in"), HasSubstr("2 messages from"),
                           HasSubstr("cannot open"), HasSubstr("the file's name is missing"),
                           HasSubstr("invalid UTF-8")));
  json want = {{{"role", "user"}, {"content", "Hello!"}},
               {{"role", "assistant"}, {"content", kHello}}};
  EXPECT_EQ(json::parse(read(saved)), want);
  for (const fs::directory_entry& e : fs::directory_iterator(folder_))
    EXPECT_THAT(e.path().string(), Not(HasSubstr(".tmp"))) << "a temporary file was left";
}

TEST_F(GenerateTest, ChatSavesAndLoadsToolsAndSystem) {
  const std::string conversation = file("c.json", R"([{"role":"system","content":"Be brief.",
    "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{}}}]},
    {"role":"user","content":"x"},{"role":"assistant","content":null,"tool_calls":[{"id":"1",
    "type":"function","function":{"name":"f","arguments":"{}"}}]},
    {"role":"tool","tool_call_id":"1","content":"5"}])");
  const std::string copy = folder_ / "copy.json";
  Ran r = chat("", "/load " + conversation + "\n/save " + copy + "\n/load " + copy + "\n");
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.err, HasSubstr("4 messages from " + copy));
  EXPECT_EQ(json::parse(read(copy)), json::parse(read(conversation)));
  Ran full = chat("", "/load " + conversation + "\n/save /dev/full/x\n/save /dev/full\n");
  EXPECT_EQ(full.code, 0);
  EXPECT_THAT(full.err, HasSubstr("cannot write"));
  EXPECT_TRUE(fs::is_character_file("/dev/full")) << "a file has taken the device's place";
}

TEST_F(GenerateTest, ChatShowsReasoningApart) {
  Ran r = chat("--max-new-tokens 200 --thinking", "Tell me a story.\n/thinking off\nHello!\n");
  EXPECT_THAT(r.out, StartsWith("[reasoning]\n"));
  EXPECT_THAT(r.err, HasSubstr("thinking is off"));
}

TEST_F(GenerateTest, ChatReusesTheCacheOfTheConversation) {
  std::string question =
      "Tell me a story about a village, a river, a boat, a bridge, a forest, "
      "a mountain, a garden, a market, a school and a house by the sea, please, "
      "and about all the animals and all the people who lived there and what they said.";
  Ran r = chat("--max-new-tokens 8", question + "\n/stats\nAnd then?\n/stats\n");
  EXPECT_THAT(r.err, AllOf(HasSubstr("(0 from the cache)"), HasSubstr("(64 from the cache)")));
}

// Drives the program through a pseudo-terminal.
class Terminal {
 public:
  explicit Terminal(std::vector<std::string> arguments) {
    pid_ = forkpty(&fd_, nullptr, nullptr, nullptr);
    if (pid_ != 0) return;
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  ~Terminal() {
    if (pid_ > 0 && code_ < 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(fd_);
  }
  void type(const std::string& keys) {
    EXPECT_EQ(write(fd_, keys.data(), keys.size()), (ssize_t)keys.size());
  }

  // What comes up to `text`, that included; a minute at most.
  std::string until(const std::string& text) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (seen_.find(text) == std::string::npos && std::chrono::steady_clock::now() < end) {
      pollfd p{fd_, POLLIN, 0};
      if (poll(&p, 1, 100) <= 0) continue;
      char block[4096];
      ssize_t n = ::read(fd_, block, sizeof(block));
      if (n <= 0) break;
      seen_.append(block, static_cast<size_t>(n));
    }
    EXPECT_THAT(seen_, HasSubstr(text));
    const size_t at = seen_.find(text);
    const size_t length = at == std::string::npos ? seen_.size() : at + text.size();
    std::string part = seen_.substr(0, length);
    seen_.erase(0, length);  // the rest is for the next question
    return part;
  }
  // -1 when it has not ended within a minute.
  int exit_code() {
    int status = 0;
    for (int tenth = 0; tenth < 600; ++tenth) {
      if (waitpid(pid_, &status, WNOHANG) == pid_)
        return code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
      usleep(100'000);
    }
    return -1;
  }

 private:
  std::string seen_;
  int fd_ = -1, code_ = -1;
  pid_t pid_ = -1;
};

TEST_F(GenerateTest, ChatOnATerminalStopsAnswersAndNotItself) {
  // Reference kernels are slow enough to be caught in the middle of an answer.
  Terminal t({FATHOM_BINARY, "chat", kSmall, "--temperature", "0", "--threads", "1", "--kernels",
              "reference", "--numerics", "exact", "--max-new-tokens", "5000"});
  t.until(">>> ");
  t.type("Hello!\n");
  t.until(kHello);
  t.until(">>> ");
  t.type("half a line\x03");  // dropped
  t.until(">>> ");
  t.type("/thinking on\n");
  t.until("thinking is on");
  t.until(">>> ");
  t.type("Tell me a story.\n");
  t.until("\x1b[2m");  // reasoning is dim
  t.type("\x03");
  EXPECT_THAT(t.until("[stopped]"), HasSubstr("\x1b[0m"));
  t.until(">>> ");
  t.type("\x1b[A\x1b[A\n");  // two up in the history
  t.until("thinking is on");
  t.until(">>> ");
  t.type("\x04");  // Ctrl-D
  EXPECT_EQ(t.exit_code(), 0);
}

}  // namespace
}  // namespace fathom
