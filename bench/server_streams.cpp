// Many concurrent streams through the whole server but the model: how long the first event takes,
// the greatest gap between two events beside the engine's own, and the memory of the server.
//
//   server_streams [streams] [tokens] [milliseconds a step] [folder with a tokenizer]
//
// Clients are a process of their own, so that their memory is not counted as the server's.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "server/http/http_server.h"
#include "server/service.h"
#include "support/scripted_engine.h"

namespace {

using namespace fathom;
using Clock = std::chrono::steady_clock;  // the same for both processes

double now() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

struct Setting {
  int streams = 200, tokens = 200;
  double step = 0.02;
  std::string folder = "models/small";
};

struct Stream {
  int fd = -1;
  double asked = 0, first = 0, last = 0, greatest_gap = 0;
  int events = 0;
  bool over = false;
  std::string tail;  // of what came last, shorter than the mark of an event
};

constexpr std::string_view kEvent = "data: ";

int connect_to(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || ::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0)
    fail("cannot connect to port {}", port);
  return fd;
}

void read_some(Stream& s) {
  char block[16384];
  const ssize_t n = ::recv(s.fd, block, sizeof(block), 0);
  if (n <= 0) {
    s.over = true;
    return;
  }
  const double at = now();
  s.tail.append(block, static_cast<size_t>(n));
  size_t begin = 0;
  for (size_t found; (found = s.tail.find(kEvent, begin)) != std::string::npos;
       begin = found + kEvent.size()) {
    if (s.events++ == 0) s.first = at;
    if (s.last > 0) s.greatest_gap = std::max(s.greatest_gap, at - s.last);
    s.last = at;
  }
  if (s.tail.find("data: [DONE]") != std::string::npos) s.over = true;
  s.tail.erase(0, std::max(begin, s.tail.size() - std::min<size_t>(s.tail.size(), 16)));
}

// The client process: returns its exit code.
int run_clients(const Setting& o, int port, const double* engine_gap) {
  const std::string body = fmt::format(
      R"({{"messages":[{{"role":"user","content":"hello"}}],"stream":true,"ignore_eos":true,)"
      R"("max_tokens":{}}})",
      o.tokens);
  const std::string request = fmt::format(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n\r\n{}",
      body.size(), body);
  std::vector<Stream> streams(static_cast<size_t>(o.streams));
  for (Stream& s : streams) s.fd = connect_to(port);
  for (Stream& s : streams) {
    s.asked = now();
    if (::send(s.fd, request.data(), request.size(), 0) != static_cast<ssize_t>(request.size()))
      fail("a request was not taken");
  }
  std::vector<pollfd> polled(streams.size());
  for (size_t open = streams.size(); open > 0;) {
    for (size_t i = 0; i < streams.size(); ++i)
      polled[i] = {streams[i].over ? -1 : streams[i].fd, POLLIN, 0};
    if (::poll(polled.data(), polled.size(), 60000) <= 0) fail("the server says nothing");
    for (size_t i = 0; i < streams.size(); ++i) {
      if (polled[i].revents == 0) continue;
      read_some(streams[i]);
      open -= streams[i].over ? 1 : 0;
    }
  }
  std::vector<double> firsts;
  double gap = 0;
  int fewest = INT_MAX;
  for (const Stream& s : streams) {
    if (s.events == 0) fail("a stream had no events");
    firsts.push_back(s.first - s.asked);
    gap = std::max(gap, s.greatest_gap);
    fewest = std::min(fewest, s.events);
  }
  std::sort(firsts.begin(), firsts.end());
  fmt::print("{} streams of {} tokens, {:.0f} ms a step: {} events at least\n", o.streams, o.tokens,
             o.step * 1e3, fewest);
  fmt::print("first event: p50 {:.1f} ms, max {:.1f} ms\n", firsts[firsts.size() / 2] * 1e3,
             firsts.back() * 1e3);
  fmt::print("greatest gap: {:.1f} ms, the engine's own {:.1f} ms, beyond it {:.1f} ms\n",
             gap * 1e3, *engine_gap * 1e3, (gap - *engine_gap) * 1e3);
  return 0;
}

std::string memory_line(const char* name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(name)) return line;
  return name;
}

// The server process. Says its port once it serves; ends when the clients have.
void run_server(const Setting& o, int port_pipe, pid_t clients, double* engine_gap) {
  using namespace fathom::server;
  const Tokenizer tokenizer = Tokenizer::from_folder(o.folder);
  const int32_t eos = tokenizer.added_id_of("<｜end▁of▁sentence｜>").value_or(0);
  const std::vector<int32_t> words = tokenizer.encode("once upon a time there was a server ");
  double last_step = 0;
  int last_running = 0;
  test::ScriptedEngine::Options pace;
  pace.step = std::chrono::microseconds(static_cast<int64_t>(o.step * 1e6));
  pace.on_step = [&](const StepReport& step) {
    const double at = now();
    if (last_running > 0) *engine_gap = std::max(*engine_gap, at - last_step);
    last_step = at;
    last_running = step.sequences;
  };
  test::ScriptedEngine engine([&](const Request&) { return test::Script{words}; }, pace);
  ConstraintFactory constraints(tokenizer, Encoding::v31, {eos});
  Metrics metrics("bench");
  SelectionStore selections(1 << 20);
  ServiceOptions options;
  options.model_names = {"bench"};
  options.vocab = tokenizer.vocab_size();
  options.stop_ids = {eos};
  Service service{engine, tokenizer, constraints, metrics, selections, options};
  Router router({}, metrics);
  add_openai_routes(router, service);
  HttpServerOptions http;
  http.port = 0;
  http.threads = 2;
  HttpServer server(
      http, [&](auto request, auto reply) { router.handle(std::move(request), std::move(reply)); });
  server.start();
  const int port = server.port();
  if (::write(port_pipe, &port, sizeof(port)) != sizeof(port)) fail("the clients are gone");
  int status = 0;
  ::waitpid(clients, &status, 0);
  fmt::print("memory of the server: {}, {}\n", memory_line("VmRSS"), memory_line("VmHWM"));
  server.stop(0);
  if (status != 0) fail("the clients failed");
}

}  // namespace

int main(int argc, char** argv) {
  Setting o;
  if (argc > 1) o.streams = std::atoi(argv[1]);
  if (argc > 2) o.tokens = std::atoi(argv[2]);
  if (argc > 3) o.step = std::atof(argv[3]) / 1e3;
  if (argc > 4) o.folder = argv[4];
  void* shared =
      ::mmap(nullptr, sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int pipe_ends[2];
  if (shared == MAP_FAILED || ::pipe(pipe_ends) != 0) return 1;
  auto* engine_gap = static_cast<double*>(shared);
  const pid_t clients = ::fork();  // before there are threads
  try {
    if (clients == 0) {
      ::close(pipe_ends[1]);
      int port = 0;
      if (::read(pipe_ends[0], &port, sizeof(port)) != sizeof(port)) return 1;
      const int code = run_clients(o, port, engine_gap);
      std::fflush(stdout);
      ::_exit(code);
    }
    ::close(pipe_ends[0]);
    run_server(o, pipe_ends[1], clients, engine_gap);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "server_streams: {}\n", e.what());
    return 1;
  }
}
