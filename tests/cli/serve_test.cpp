// serve as whoever runs it meets it: the program itself, its output, its signals, its exit codes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cli/run_fathom.h"
#include "server/http_client.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

using server::HttpAnswer;
using server::HttpClient;
using test::kSmall;
using testing::HasSubstr;
using testing::StartsWith;

const std::string kLongStream =
    R"({"messages":[{"role":"user","content":"Tell me a story."}],"stream":true,)"
    R"("ignore_eos":true,"max_tokens":8000})";

// The program, running; ended with the test whatever happens.
class Served {
 public:
  // `errors_to`: a descriptor that takes the place of the file errors() reads; kClosed: none at
  // all.
  static constexpr int kClosed = -2;
  explicit Served(std::vector<std::string> arguments, int errors_to = -1) {
    int out[2];
    if (::pipe2(out, O_CLOEXEC) != 0) return;
    arguments.insert(arguments.begin(),
                     {FATHOM_BINARY, "serve", "--ckpt-path", kSmall, "--device", "cpu"});
    const std::string errors = folder_.file("err");
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(out[1], STDOUT_FILENO);
      const int err = errors_to >= 0 ? errors_to : ::open(errors.c_str(), O_CREAT | O_WRONLY, 0600);
      ::dup2(err, STDERR_FILENO);
      if (errors_to == kClosed) ::close(STDERR_FILENO);
      std::vector<char*> argv;
      for (std::string& a : arguments) argv.push_back(a.data());
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(out[1]);
    char c;
    while (::read(out[0], &c, 1) == 1 && c != '\n') line_ += c;
    ::close(out[0]);
  }
  ~Served() {
    if (child_ > 0) ::kill(child_, SIGKILL);
    if (child_ > 0) ::waitpid(child_, nullptr, 0);
  }

  // What it said on standard output: where it listens.
  const std::string& line() const { return line_; }
  int port() const { return std::atoi(line_.substr(line_.rfind(':') + 1).c_str()); }
  void signal(int number) const { ::kill(child_, number); }
  // Its exit code, once it has ended.
  int wait() {
    int status = 0;
    // A bug fails the test instead of hanging it.
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (::waitpid(child_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > give_up) return -1;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string errors() const { return test::read_file(folder_.file("err")); }

 private:
  test::TempFolder folder_;
  pid_t child_ = -1;
  std::string line_;
};

TEST(ServeTest, SaysWhereItListensAndStopsWhenToldTo) {
  Served s({"--port", "0", "--served-model-name", "tiny", "--max-model-len", "512"});
  EXPECT_THAT(s.line(), StartsWith("listening on http://127.0.0.1:"));
  HttpClient c(s.port());
  ASSERT_TRUE(c.get("/health"));
  EXPECT_EQ(c.answer().status, 200);
  ASSERT_TRUE(c.get("/v1/models"));
  EXPECT_THAT(c.answer().body, HasSubstr("\"tiny\""));
  ASSERT_TRUE(c.post("/v1/chat/completions",
                     R"({"messages":[{"role":"user","content":"Hello!"}],"temperature":0})"));
  const HttpAnswer a = c.answer();
  EXPECT_EQ(a.status, 200);
  EXPECT_THAT(a.body, HasSubstr("Hello! How can I help you today?"));
  ASSERT_TRUE(c.get("/metrics"));
  EXPECT_THAT(c.answer().body, HasSubstr("fathom:step_seconds_count{kind=\"decode\""));
  s.signal(SIGTERM);
  EXPECT_EQ(s.wait(), 0);
  EXPECT_EQ(c.read_to_end(), "");
  const std::string log = s.errors();
  EXPECT_THAT(log, HasSubstr("512 tokens"));
  EXPECT_THAT(log, HasSubstr("\"path\":\"/v1/chat/completions\",\"status\":200"));
  EXPECT_EQ(log.find("Hello"), std::string::npos);
}

TEST(ServeTest, AStopUnderLoadEndsStreamsWithAnError) {
  Served s({"--port", "0", "--grace", "0"});
  std::vector<HttpClient> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back(s.port());
    ASSERT_TRUE(clients.back().post("/v1/chat/completions", kLongStream));
    EXPECT_THAT(clients.back().read_until("data: {"), HasSubstr("200 OK"));
  }
  s.signal(SIGTERM);
  for (HttpClient& c : clients) {
    const std::string rest = c.read_to_end();
    EXPECT_THAT(rest, HasSubstr("shutting down"));
    EXPECT_TRUE(rest.ends_with("0\r\n\r\n"));
  }
  EXPECT_EQ(s.wait(), 0);
}

TEST(ServeTest, ASecondSignalDoesNotWait) {
  Served s({"--port", "0", "--grace", "1000"});
  HttpClient c(s.port());
  ASSERT_TRUE(c.post("/v1/chat/completions", kLongStream));
  EXPECT_NE(c.read_until("data: {"), "");
  s.signal(SIGINT);
  s.signal(SIGTERM);
  EXPECT_EQ(s.wait(), 0);
  EXPECT_THAT(c.read_to_end(), HasSubstr("shutting down"));
}

// A pipe for standard error whose reader behaves badly.
struct ErrorPipe {
  ErrorPipe() { EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0); }
  ~ErrorPipe() {
    leave();
    ::close(ends[1]);
  }
  void leave() {
    if (ends[0] >= 0) ::close(ends[0]);
    ends[0] = -1;
  }
  // From here on it takes nothing more.
  void fill() const {
    // Opened anew: O_NONBLOCK would be the server's, too, on a copy of its descriptor.
    const int fd = ::open(("/proc/self/fd/" + std::to_string(ends[1])).c_str(),
                          O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    for (const size_t size : {size_t{4096}, size_t{1}})
      while (::write(fd, std::string(size, '.').data(), size) > 0) {
      }
    ::close(fd);
  }
  int ends[2] = {-1, -1};
};

TEST(ServeTest, AReaderOfTheLogThatLeavesDoesNotEndTheServer) {
  ErrorPipe errors;
  Served s({"--port", "0"}, errors.ends[1]);
  errors.leave();
  HttpClient c(s.port());
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(c.get("/health"));
    EXPECT_EQ(c.answer().status, 200);
  }
  s.signal(SIGTERM);
  EXPECT_EQ(s.wait(), 0);
}

TEST(ServeTest, ALogThatCannotBeWrittenDoesNotEndTheServer) {
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  for (const int errors : {full, Served::kClosed}) {
    Served s({"--port", "0"}, errors);
    ASSERT_THAT(s.line(), StartsWith("listening on http://"));
    HttpClient c(s.port());
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(c.get("/health"));
      EXPECT_EQ(c.answer().status, 200);
    }
    s.signal(SIGTERM);
    EXPECT_EQ(s.wait(), 0);
  }
  ::close(full);
}

TEST(ServeTest, AReaderOfTheLogThatDoesNotReadCannotKeepTheServer) {
  ErrorPipe errors;
  Served s({"--port", "0"}, errors.ends[1]);
  errors.fill();
  HttpClient c(s.port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(c.get("/health"));
    EXPECT_EQ(c.answer().status, 200);
  }
  s.signal(SIGTERM);
  EXPECT_EQ(s.wait(), 0);
}

TEST(ServeTest, KeysComeFromFlagsAndFiles) {
  test::TempFolder folder;
  test::write_file(folder.file("keys"), "# ours\n\n  from-file \r\n");
  Served s({"--port", "0", "--api-key", "from-flag", "--api-key-file", folder.file("keys")});
  HttpClient c(s.port());
  ASSERT_TRUE(c.get("/v1/models"));
  EXPECT_EQ(c.answer().status, 401);
  for (const char* key : {"from-flag", "from-file"}) {
    ASSERT_TRUE(c.say(std::string("GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ") +
                      key + "\r\n\r\n"));
    EXPECT_EQ(c.answer().status, 200) << key;
  }
}

TEST(ServeTest, WhatCannotBeServedIsSaidAtOnce) {
  test::TempFolder folder;
  test::write_file(folder.file("none"), "# no key\n");
  const auto refused = [](std::vector<std::string> arguments, int code, const char* why) {
    Served s(std::move(arguments));
    EXPECT_EQ(s.line(), "");
    EXPECT_EQ(s.wait(), code) << why;
    EXPECT_THAT(s.errors(), HasSubstr(why));
  };
  refused({"--port", "0", "--host", "0.0.0.0"}, 2, "--insecure");
  refused({"--port", "0", "--host", "::"}, 2, "--insecure");
  refused({"--port", "0", "--api-key", ""}, 2, "--api-key");
  refused({"--port", "0", "--api-key-file", folder.file("none")}, 1, "no API key in it");
  refused({"--port", "0", "--api-key-file", folder.file("missing")}, 1, "missing");
  refused({"--port", "0", "--config", folder.file("missing")}, 1, "missing");
  refused({"--port", "70000"}, 2, "--port");
  refused({"--port", "0", "--load-format", "dummy"}, 2, "in the memory of a GPU");
  refused({"--port", "0", "--load-format", "dummy", "--cache-dir", folder.file("pages")}, 2,
          "--cache-dir");
  refused({"--port", "0", "--load-format", "gguf"}, 2, "--load-format");
  Served first({"--port", "0"});
  refused({"--port", std::to_string(first.port())}, 1, "Address already in use");
  Served open({"--port", "0", "--host", "0.0.0.0", "--insecure"});
  EXPECT_THAT(open.line(), StartsWith("listening on http://0.0.0.0:"));
}

}  // namespace
}  // namespace fathom
