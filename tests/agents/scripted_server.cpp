// `fathom serve` without a model: the server over an engine that plays a script, for agents whose
// protocol is the point and whose prompts no small model understands. The tokenizer and the
// encoding are a checkpoint folder's.
//   scripted_server CHECKPOINT SCRIPT [CONTEXT [TOKENS_PER_SECOND]]
// SCRIPT is a JSON list of {"if": TEXT, "unless": TEXT, "say": TEXT}. A
// request is answered by the first entry whose `if` is in its prompt and whose `unless` is not;
// both may be absent. Markers in `say` are the encoding's own tokens.
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "server/http/http_server.h"
#include "server/service.h"
#include "support/scripted_engine.h"
#include "text/json_reader.h"

namespace {

using namespace fathom;
using namespace fathom::server;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("{}: cannot be opened", path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

struct Line {
  std::string needed, excluded;
  std::vector<int32_t> tokens;
};

std::vector<Line> read_script(const std::string& path, const Tokenizer& tokenizer) {
  const auto document = parse_json<OrderedJson>(read_file(path), path);
  const JsonAt<OrderedJson> root(document, path + ": ");
  std::vector<Line> lines;
  for (size_t i = 0; i < root.array_size(); ++i) {
    const auto entry = root.at(i);
    const auto text = [&](const char* key) {
      return entry.at(key).null() ? std::string() : entry.at(key).string();
    };
    lines.push_back(
        {text("if"), text("unless"), tokenizer.encode(entry.at("say").string(), false)});
  }
  return lines;
}

class Author {
 public:
  Author(const Tokenizer& tokenizer, std::vector<Line> lines)
      : tokenizer_(tokenizer), lines_(std::move(lines)) {}

  test::Script operator()(const Request& request) const {
    const std::string prompt = tokenizer_.decode(request.ids);
    for (const Line& line : lines_) {
      const bool excluded = !line.excluded.empty() && prompt.find(line.excluded) != prompt.npos;
      if (prompt.find(line.needed) != prompt.npos && !excluded) return {line.tokens};
    }
    return {.tokens = {}, .error = "the script has no line for this prompt"};
  }

 private:
  const Tokenizer& tokenizer_;
  std::vector<Line> lines_;
};

int run(const std::string& folder, const std::string& script, int64_t context, double pace) {
  const Tokenizer tokenizer = Tokenizer::from_folder(folder);
  const int32_t eos = *tokenizer.added_id_of("<｜end▁of▁sentence｜>");
  const Encoding encoding = encoding_of_folder(folder);
  test::ScriptedEngine::Options options;
  options.max_context = context;
  options.step = std::chrono::microseconds(static_cast<int64_t>(pace > 0 ? 1e6 / pace : 0));
  test::ScriptedEngine engine(Author(tokenizer, read_script(script, tokenizer)), options);
  ConstraintFactory constraints(tokenizer, encoding, {eos});
  Metrics metrics("small");
  SelectionStore selections(1 << 20);
  ServiceOptions service_options;
  service_options.model_names = {"small"};
  service_options.encoding = encoding;
  service_options.vocab = tokenizer.vocab_size();
  service_options.stop_ids = {eos};
  Service service{engine, tokenizer, constraints, metrics, selections, service_options};
  RouterOptions router_options;
  router_options.log = std::make_shared<ServerLog>(LogLevel::info);
  router_options.log_prompts = true;
  Router router(router_options, metrics);
  add_openai_routes(router, service);
  add_responses_routes(router, service);
  add_anthropic_routes(router, service);
  add_utility_routes(router, service);
  HttpServerOptions http_options;
  http_options.port = 0;
  HttpServer http(http_options, [&](auto request, auto reply) {
    router.handle(std::move(request), std::move(reply));
  });
  sigset_t end;
  sigemptyset(&end);
  sigaddset(&end, SIGTERM);
  sigaddset(&end, SIGINT);
  pthread_sigmask(SIG_BLOCK, &end, nullptr);
  http.start();
  fmt::print("listening on http://127.0.0.1:{}\n", http.port());
  std::fflush(stdout);
  int signal = 0;
  sigwait(&end, &signal);
  http.stop(0);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    fmt::print(stderr, "usage: scripted_server CHECKPOINT SCRIPT [CONTEXT [TOKENS_PER_SECOND]]\n");
    return 2;
  }
  try {
    return run(argv[1], argv[2], argc > 3 ? std::atoll(argv[3]) : 131072,
               argc > 4 ? std::atof(argv[4]) : 0);
  } catch (const std::exception& e) {
    fmt::print(stderr, "scripted_server: {}\n", e.what());
    return 1;
  }
}
