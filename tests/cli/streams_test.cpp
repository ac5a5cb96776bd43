// Standard output and standard error that are closed, full, or pipes without a reader: what a
// command says may be lost, but what it was run for is not lost in silence.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include "cli/run_fathom.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

using test::kSmall;
using test::TempFolder;
using testing::HasSubstr;

constexpr int kKilledByPipe = 128 + SIGPIPE;  // as a shell counts

// What a descriptor of the program is.
enum class Stream { kept, closed, full, no_reader };

// In the child: makes `descriptor` such a stream; `file` is where a kept one leads.
void set_up(int descriptor, Stream kind, const std::string& file) {
  int fd = -1;
  switch (kind) {
    case Stream::kept:
      fd = ::open(file.c_str(), descriptor == 0 ? O_RDONLY : O_CREAT | O_TRUNC | O_WRONLY, 0600);
      break;
    case Stream::full:
      fd = ::open("/dev/full", O_RDWR);
      break;
    case Stream::no_reader: {
      int ends[2];
      if (::pipe(ends) != 0) ::_exit(126);
      ::close(ends[0]);
      fd = ends[1];
      break;
    }
    case Stream::closed:
      ::close(descriptor);
      return;
  }
  ::dup2(fd, descriptor);
  if (fd != descriptor) ::close(fd);
}

struct Streams {
  Stream out = Stream::kept, err = Stream::kept, in = Stream::kept;
  bool ignore_pipe = false;  // whoever starts the program ignores SIGPIPE
};

struct Command {
  std::vector<std::string> words;
  std::string input = {};  // what standard input holds
};

class StreamsTest : public testing::Test {
 protected:
  struct Ran {
    int code = -1;
    std::string out, err;
  };
  Ran run(const Command& command, Streams streams = {}) {
    test::write_file(folder.file("in"), command.input);
    std::vector<std::string> words = command.words;
    words.insert(words.begin(), FATHOM_BINARY);
    const pid_t child = ::fork();
    if (child == 0) {
      std::signal(SIGPIPE, streams.ignore_pipe ? SIG_IGN : SIG_DFL);
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      set_up(STDIN_FILENO, streams.in, folder.file("in"));
      set_up(STDOUT_FILENO, streams.out, folder.file("out"));
      set_up(STDERR_FILENO, streams.err, folder.file("err"));
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    Ran ran;
    ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (streams.out == Stream::kept) ran.out = test::read_file(folder.file("out"));
    if (streams.err == Stream::kept) ran.err = test::read_file(folder.file("err"));
    return ran;
  }

  // One of every command that writes to standard output and is quick, with an answer that is the
  // same every time.
  std::vector<Command> commands() {
    test::write_file(folder.file("ids"), "11 12 13");
    test::write_file(folder.file("text"), "Hello!");
    const auto computing = [](std::vector<std::string> words) {
      for (const char* word :
           {"--device", "cpu", "--threads", "1", "--temperature", "0", "--max-new-tokens", "3"})
        words.push_back(word);
      return words;
    };
    const std::string text = folder.file("text");
    return {
        {{"--help"}},
        {{"--version"}},
        {{"generate", "--help"}},
        {{"inspect", kSmall + "/model-00001-of-000003.safetensors"}},
        {{"encode", "--ckpt-path", kSmall, "--text", "Hello!"}},
        {{"encode", "--ckpt-path", kSmall, "--text", "Hello!", "--ids"}},
        {{"decode", "--ckpt-path", kSmall, "--ids", folder.file("ids")}},
        {{"parse", "--ckpt-path", kSmall}, "Hello!"},
        {computing({"generate", "--ckpt-path", kSmall, "--input-file", text})},
        {computing({"generate", "--ckpt-path", kSmall, "--interactive"}), "Hello!\n"},
        {computing({"chat", kSmall}), "Hello!\n"},
        {{"make-checkpoint", "--preset", "tiny", "--dry-run", "--out", folder.file("made")}},
        {{"convert", "--hf-ckpt-path", kSmall, "--save-path", folder.file("converted"),
          "--n-experts", "16", "--model-parallel", "1", "--dry-run"}},
    };
  }
  // The same with figures that differ from run to run.
  std::vector<Command> timed_commands() {
    test::write_file(folder.file("text"), "Hello!");
    return {
        {{"inspect", kSmall}},
        {{"inspect", "--json", kSmall}},
        {{"generate", "--ckpt-path", kSmall, "--json", "--input-file", folder.file("text"),
          "--device", "cpu", "--threads", "1", "--max-new-tokens", "3"}},
        {{"selfcheck", "--ckpt-path", kSmall, "--only", "text", "--device", "cpu"}},
    };
  }
  std::vector<Command> all_commands() {
    std::vector<Command> all = commands();
    for (Command& c : timed_commands()) all.push_back(std::move(c));
    return all;
  }

  TempFolder folder;
};

TEST_F(StreamsTest, StandardErrorThatCannotBeWrittenChangesNothing) {
  for (const Command& command : commands()) {
    SCOPED_TRACE(testing::PrintToString(command.words));
    const Ran usual = run(command);
    EXPECT_EQ(usual.code, 0) << usual.err;
    EXPECT_FALSE(usual.out.empty());
    for (const Stream err : {Stream::closed, Stream::full, Stream::no_reader}) {
      const Ran ran = run(command, {.err = err});
      EXPECT_EQ(ran.code, 0) << static_cast<int>(err);
      EXPECT_EQ(ran.out, usual.out) << static_cast<int>(err);
    }
  }
  for (const Command& command : timed_commands())
    for (const Stream err : {Stream::closed, Stream::full, Stream::no_reader})
      EXPECT_EQ(run(command, {.err = err}).code, 0) << testing::PrintToString(command.words);
}

TEST_F(StreamsTest, ErrorsKeepTheirExitCodes) {
  const std::pair<Command, int> cases[] = {
      {{{"inspect", "/nowhere"}}, 1},
      {{{"inspect"}}, 2},
      {{{"no-such-command"}}, 2},
      {{{"encode", "--ckpt-path", "/nowhere", "--text", "a"}}, 1},
      {{{"serve", "--ckpt-path", "/nowhere"}}, 1},
      {{{"decode", "--ckpt-path", kSmall, "--ids", "/nowhere"}}, 1},
  };
  for (const auto& [command, code] : cases)
    for (const Stream err : {Stream::kept, Stream::closed, Stream::full, Stream::no_reader})
      for (const Stream rest : {Stream::kept, Stream::closed})
        EXPECT_EQ(run(command, {rest, err, rest}).code, code)
            << testing::PrintToString(command.words) << static_cast<int>(err);
}

TEST_F(StreamsTest, LostOutputIsSaid) {
  const std::string said = "fathom: cannot write to standard output: ";
  for (const Command& command : all_commands()) {
    SCOPED_TRACE(testing::PrintToString(command.words));
    const Ran full = run(command, {.out = Stream::full});
    EXPECT_EQ(full.code, 1);
    EXPECT_THAT(full.err, HasSubstr(said + "No space left on device\n"));
    EXPECT_EQ(full.err.find(said), full.err.rfind(said)) << "said twice: " << full.err;
    const Ran closed = run(command, {.out = Stream::closed});
    EXPECT_EQ(closed.code, 1);
    EXPECT_THAT(closed.err, HasSubstr(said + "Bad file descriptor\n"));
    EXPECT_EQ(run(command, {.out = Stream::closed, .err = Stream::closed}).code, 1);
  }
}

TEST_F(StreamsTest, AReaderThatHasGoneEndsACommandQuietly) {
  for (const Command& command : all_commands()) {
    SCOPED_TRACE(testing::PrintToString(command.words));
    const Ran ran = run(command, {.out = Stream::no_reader});
    EXPECT_EQ(ran.code, kKilledByPipe);
    EXPECT_THAT(ran.err, testing::Not(HasSubstr("standard output")));
    const Ran ignored = run(command, {.out = Stream::no_reader, .ignore_pipe = true});
    EXPECT_EQ(ignored.code, 1);
    EXPECT_THAT(ignored.err, testing::Not(HasSubstr("standard output")));
  }
}

// Whoever starts a server waits for the line that says where it listens.
TEST_F(StreamsTest, AServerWhoseLineIsLostEnds) {
  const Ran ran = run({{"serve", "--ckpt-path", kSmall, "--device", "cpu", "--port", "0"}},
                      {.out = Stream::full});
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, HasSubstr("fathom: cannot write to standard output: No space left"));
}

// A command that writes nothing there does not need it.
TEST_F(StreamsTest, FilesDoNotLandInClosedDescriptors) {
  test::write_file(folder.file("ids"), "11 12 13");
  const Command logits = {{"logits", "--ckpt-path", kSmall, "--ids", folder.file("ids"), "--out",
                           folder.file("a.safetensors"), "--device", "cpu", "--threads", "1"}};
  ASSERT_EQ(run(logits).code, 0);
  Command bare = logits;
  bare.words[6] = folder.file("b.safetensors");
  EXPECT_EQ(run(bare, {Stream::closed, Stream::closed, Stream::closed}).code, 0);
  EXPECT_EQ(test::read_file(folder.file("a.safetensors")),
            test::read_file(folder.file("b.safetensors")));
}

TEST_F(StreamsTest, InputThatCannotBeReadIsSaid) {
  for (const Command& command : {Command{{"parse", "--ckpt-path", kSmall}},
                                 Command{{"decode", "--ckpt-path", kSmall, "--ids", "-"}},
                                 Command{{"chat", kSmall, "--device", "cpu", "--threads", "1"}}}) {
    const Ran ran = run(command, {.in = Stream::closed});
    EXPECT_EQ(ran.code, 1);
    EXPECT_THAT(ran.err, HasSubstr("fathom: cannot read standard input: Bad file descriptor"));
  }
}

}  // namespace
}  // namespace fathom
