// encode, decode and parse as a user meets them: bytes in, bytes out, exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"

namespace fathom {
namespace {

using test::kSmall;
using ::testing::HasSubstr;

struct Outputs {
  int code;
  std::string out, err;
};

class TextCommands : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("fathom_encode_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string file(const std::string& name, const std::string& content) {
    const auto path = folder_ / name;
    std::ofstream(path, std::ios::binary) << content;
    return path.string();
  }

  static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  // `arguments` after the program and its checkpoint; `input` is what standard input holds.
  Outputs run(const std::string& command, const std::string& arguments,
              const std::string& input = "") {
    const std::string in = file("stdin", input), out = file("stdout", ""), err = file("stderr", "");
    const std::string line = std::string(FATHOM_BINARY) + " " + command + " --ckpt-path " + kSmall +
                             " " + arguments + " <" + in + " >" + out + " 2>" + err;
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(out), read(err)};
  }

 private:
  std::filesystem::path folder_;
};

// Editors put a byte order mark in front of UTF-8; it is no part of the text.
TEST_F(TextCommands, ByteOrderMarks) {
  const Outputs plain = run("encode", "--ids --text-file " + file("a.txt", "Hello <think>"));
  const Outputs marked =
      run("encode", "--ids --text-file " + file("b.txt", "\xEF\xBB\xBFHello <think>"));
  EXPECT_EQ(marked.out, plain.out);
  EXPECT_THAT(marked.err, HasSubstr("b.txt: the byte order mark in front is left out"));
  EXPECT_EQ(run("encode", "--ids --text-file -", "\xEF\xBB\xBFHello <think>").out, plain.out);
  const Outputs messages =
      run("encode", "--messages -", "\xEF\xBB\xBF[{\"role\": \"user\", \"content\": \"Hi\"}]");
  EXPECT_EQ(messages.out, "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>");
  EXPECT_EQ(run("decode", "--ids -",
                "\xEF\xBB\xBF"
                "56 3534")
                .code,
            0);
  const Outputs wide = run("encode", "--text-file -", std::string("\xFF\xFEH\0i\0", 6));
  EXPECT_EQ(wide.code, 1);
  EXPECT_THAT(wide.err, HasSubstr("standard input: the text is UTF-16, expected UTF-8"));
}

TEST_F(TextCommands, AFolderIsNoText) {
  const Outputs ran = run("encode", "--text-file " + kSmall);
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.err, "fathom: cannot read " + kSmall + ": Is a directory\n");
}

TEST_F(TextCommands, EncodeText) {
  EXPECT_EQ(run("encode", "--ids --text 'Hello <think>'").out, "56 3534 237 5\n");
  EXPECT_EQ(run("encode", "--ids --plain --text 'Hello <think>'").out,
            "56 3534 237 44 397 583 46\n");
  EXPECT_EQ(run("encode", "--text 'as it is'").out, "as it is");
  EXPECT_EQ(run("encode", "--ids --text ''").out, "\n");
  EXPECT_EQ(run("encode", "--text-file -", "kept\n\xFF\n").out, "kept\n\uFFFD\n");
  const Outputs bad = run("encode", "--text $(printf 'a\\377')");
  EXPECT_EQ(bad.code, 1);
  EXPECT_THAT(bad.err, HasSubstr("--text: invalid UTF-8 at byte 1"));
}

TEST_F(TextCommands, EncodeMessages) {
  const std::string messages = file("m.json", R"([{"role": "user", "content": "Hello!"}])");
  const std::string prompt = "<｜begin▁of▁sentence｜><｜User｜>Hello!<｜Assistant｜></think>";
  const Outputs shown = run("encode", "--messages " + messages);
  EXPECT_EQ(shown.code, 0);
  EXPECT_EQ(shown.out, prompt);
  EXPECT_THAT(shown.err, HasSubstr("v3.1"));  // what was chosen is said
  EXPECT_EQ(run("encode", "--ids --messages " + messages).out, "0 3 56 3534 17 4 6\n");
  EXPECT_EQ(run("encode", "--ids --thinking --messages " + messages).out, "0 3 56 3534 17 4 5\n");
  EXPECT_EQ(
      run("encode", "--encoding v3.2 --messages -",
          R"({"messages": [{"role": "developer", "content": "D"}]})")
          .out,
      "<｜begin▁of▁sentence｜><｜User｜>\n\n# The user's message is: D<｜Assistant｜></think>");
  const Outputs bad = run("encode", "--messages " + file("b.json", R"([{"role": "robot"}])"));
  EXPECT_EQ(bad.code, 1);
  EXPECT_THAT(bad.err, HasSubstr("b.json: messages[0].role"));
}

TEST_F(TextCommands, EncodeUsage) {
  EXPECT_EQ(run("encode", "").code, 2);
  EXPECT_EQ(run("encode", "--text a --messages b").code, 2);
  EXPECT_EQ(run("encode", "--text a --encoding v9").code, 2);
  EXPECT_EQ(run("encode", "--messages /no/such.json").code, 1);
}

TEST_F(TextCommands, DecodeGivesTheBytesBack) {
  const std::string text = "Two lines,\n\nünïcode 中文 🙂 and a tail \n";
  const std::string ids = run("encode", "--ids --text-file -", text).out;
  EXPECT_EQ(run("decode", "--ids -", ids).out, text);
  EXPECT_EQ(run("decode", "--ids " + file("ids", "56\n 3534\t999999 ")).out, "Hello");
  EXPECT_EQ(run("decode", "--ids -", "").out, "");
  for (const char* bad : {"1 x", "-4", "99999999999"}) {
    EXPECT_EQ(run("decode", "--ids -", bad).code, 1) << bad;
  }
}

TEST_F(TextCommands, ParseGivesAMessage) {
  const std::string completion =
      "R</think>A<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": "
      "1}<｜tool▁call▁end｜>"
      "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>";
  const Outputs ran = run("parse", "--thinking", completion);
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(nlohmann::json::parse(ran.out), nlohmann::json::parse(R"({"role": "assistant",
      "content": "A", "reasoning_content": "R", "finish_reason": "tool_calls", "tool_calls": [
      {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]})"));
  EXPECT_EQ(
      nlohmann::json::parse(run("parse", "--encoding v3.2", "a\n").out),
      nlohmann::json::parse(R"({"role": "assistant", "content": "a\n", "finish_reason": "stop"})"));
}

}  // namespace
}  // namespace fathom
