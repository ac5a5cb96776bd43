// fathom serve: the engine behind HTTP, for many clients at once.
#include <poll.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>

#include "base/authority.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/file_limit.h"
#include "cli/loaded_model.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/plan_machine.h"
#include "cli/processes.h"
#include "cli/signals.h"
#include "server/http/http_server.h"
#include "server/metrics.h"
#include "server/router.h"
#include "server/server_log.h"
#include "server/service.h"
#include "server/tokenizer_info.h"
#include "text/utf8.h"

namespace fathom::cli {
namespace {

using namespace server;

constexpr double kFarewell = 5;  // seconds that answers in flight get when the engine has failed
constexpr double kMpirunGrace = 0.6;  // and when mpirun ends the program: it kills after a second
constexpr double kLastLines = 2;  // seconds that the log's last lines get to be written at the end
constexpr size_t kSelectionBytes = size_t{64} << 20;

struct ServeFlags {
  std::string checkpoint;
  ModelOptions model;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::vector<std::string> api_keys, model_names, origins;
  std::string api_key_file, log_level = "info", show_format = "auto";
  int max_queue = 256, http_threads = 2;
  int max_body_mib = 32;
  double request_timeout = 0, grace = 30;
  std::string cache_dir;
  double cache_dir_gib = 16;
  bool keep_selection = false, insecure = false, log_prompts = false, no_prefixes = false;
};

// One key a line; blank lines and lines that begin with # are not keys.
void read_keys(const std::string& path, std::vector<std::string>& keys) {
  const std::string text = read_all(path);
  const size_t before = keys.size();
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    line.erase(line.find_last_not_of(" \t\r") + 1);
    line.erase(0, line.find_first_not_of(" \t"));
    if (!line.empty() && line[0] != '#') keys.push_back(line);
  }
  // An empty file must not open the server to everybody.
  if (keys.size() == before) fail("{}: no API key in it: expected one a line", path);
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host == "[::1]" ||
         (host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string::npos);
}

// Writes `line` to standard error if that is possible without waiting. Its reader may have stopped
// reading or be gone, and the log's thread may be blocked in a write with the stream's lock held.
void say(const std::string& line) {
  pollfd out{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&out, 1, 0) != 1 || (out.revents & POLLOUT) == 0) return;
  // A pipe that is writable takes PIPE_BUF bytes without waiting.
  const std::string_view text = std::string_view(line).substr(0, 4096);
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
}

RouterOptions router_options(const ServeFlags& o, std::shared_ptr<ServerLog> log) {
  RouterOptions r;
  r.api_keys = o.api_keys;
  for (const std::string& key : o.api_keys)
    if (key.empty()) throw UsageError("--api-key: a key of at least one character is accepted");
  if (!o.api_key_file.empty()) read_keys(o.api_key_file, r.api_keys);
  if (!is_loopback(o.host) && r.api_keys.empty() && !o.insecure)
    throw UsageError(fmt::format(
        "--host {}: whoever reaches this address could use the model. Give --api-key or "
        "--api-key-file, or --insecure to serve everybody",
        o.host));
  r.allowed_origins = o.origins;
  r.local_hosts_only = is_loopback(o.host) && r.api_keys.empty() && !o.insecure;
  r.log = std::move(log);
  r.log_prompts = o.log_prompts;
  return r;
}

HttpServerOptions http_options(const ServeFlags& o, const std::shared_ptr<ServerLog>& log) {
  HttpServerOptions h;
  h.host = o.host;
  h.port = o.port;
  h.threads = o.http_threads;
  h.max_body_bytes = static_cast<size_t>(o.max_body_mib) << 20;
  h.max_pending_bytes = std::max(h.max_pending_bytes, 2 * h.max_body_bytes);
  h.on_problem = [log](const std::string& what) { log->write(LogLevel::warning, what); };
  return h;
}

// What the main thread waits for: a signal, or the end of the engine.
class Ending {
 public:
  void announce(const std::string& failure = {}) {
    std::lock_guard lock(mutex_);
    over_ = true;
    if (failure_.empty()) failure_ = failure;
    changed_.notify_all();
  }
  // Waits, and returns the engine's failure; empty if a signal asked for the end.
  std::string wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return over_; });
    return failure_;
  }

 private:
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool over_ = false;
  std::string failure_;
};

ServiceOptions service_options(const ServeFlags& o, const LoadedModel& model) {
  ServiceOptions s;
  s.model_names = o.model_names;
  s.created = static_cast<int64_t>(std::time(nullptr));
  s.encoding = model.encoding();
  if (o.show_format != "auto") s.show_format = o.show_format == "on";
  s.vocab = model.config().vocab;
  s.stop_ids = model.stop_ids();
  s.sampling = sampling_of_folder(o.checkpoint);
  s.keep_selection = o.keep_selection;
  s.request_seconds = o.request_timeout;
  s.tokenizer_info =
      tokenizer_info(o.checkpoint, model.tokenizer(), model.config().bos, model.config().eos);
  s.fingerprint = fmt::format("fathom-{}-{}", name_of(model.engine_options().compute.device),
                              name_of(model.engine_options().compute.numerics));
  return s;
}

void describe(const ServiceOptions& s, bool needs_keys) {
  const SamplingParams& p = s.sampling;
  fmt::print(stderr, "model {}; temperature {}, top_p {}, top_k {} unless a request says; {}\n",
             fmt::join(s.model_names, ", "), p.temperature, p.top_p, p.top_k,
             needs_keys ? "requests need an API key" : "no API key needed");
}

int64_t cache_dir_bytes(const ServeFlags& o) {
  return static_cast<int64_t>(o.cache_dir_gib * kGiB);
}

void describe_cache(const LoadedModel& model, const ServeFlags& o) {
  // For a GPU this was printed before the weights were loaded.
  if (model.engine_options().compute.device == DeviceKind::cpu)
    fmt::print(stderr, "{}\n", model.engine().memory().describe());
  fmt::print(stderr, "{}; beginnings of prompts are {}\n", model.engine().memory().describe_load(),
             o.no_prefixes ? "not kept" : "kept");
  if (o.cache_dir.empty()) return;
  const PrefixStoreStats s = model.engine().cache_dir_stats();
  fmt::print(stderr, "cache folder {}: {} pages, {} of {}\n", o.cache_dir, s.files,
             bytes_text(s.bytes), bytes_text(cache_dir_bytes(o)));
}

EngineOptions engine_options(const ServeFlags& o, Metrics& metrics,
                             const std::shared_ptr<ServerLog>& log) {
  EngineOptions e;
  e.max_waiting = o.max_queue;
  e.keep_prefixes = !o.no_prefixes;
  e.cache_dir = o.cache_dir;
  e.cache_dir_bytes = cache_dir_bytes(o);
  e.on_cache_problem = [log](const std::string& what) { log->write(LogLevel::warning, what); };
  e.keep_selection = o.keep_selection;
  e.on_step = [&metrics](const StepReport& step) { metrics.observe_step(step); };
  return e;
}

// Steps the engine and serves until a signal or the engine's failure: the exit code.
int serve(const ServeFlags& o, ModelEngine& engine, HttpServer& http, EndSignals& signals) {
  Ending ending;
  std::jthread stepping([&](const std::stop_token& stop) {
    try {
      engine.run(stop);
    } catch (const std::exception& failure) {
      ending.announce(failure.what());
    }
  });
  if (ProcessLink* link = process_link())
    link->on_failure([&](const std::string& why) { ending.announce(why); });
  http.start();
  signals.listen([&](int count) {
    ending.announce();
    if (count > 1) http.stop(0);
    if (count == 1) say("stopping: a second signal stops at once\n");
  });
  write_out(fmt::format("listening on http://{}\n", authority(o.host, http.port())));
  // A program that waits for that line would wait for ever, so the server ends; end_of_output()
  // reports why.
  if (output_lost()) ending.announce();

  std::string failure = ending.wait();
  if (!failure.empty()) say(fmt::format("fathom: the engine has failed: {}\n", failure));
  double grace = failure.empty() ? o.grace : std::min(o.grace, kFarewell);
  if (process_link() && signals.sent_by_parent()) grace = std::min(grace, kMpirunGrace);
  http.stop(grace);
  signals.listen([](int) {});
  if (ProcessLink* link = process_link()) {
    link->on_failure({});
    if (failure.empty()) failure = link->failure();  // one that came after the signal
  }
  return failure.empty() ? 0 : 1;
}

int load_and_serve(ServeFlags o, EndSignals& signals, const std::shared_ptr<ServerLog>& log) {
  RouterOptions routing = router_options(o, log);
  if (o.model.dummy_weights() && !o.cache_dir.empty())
    throw UsageError("--load-format dummy: pages of random weights are of no use in --cache-dir");
  raise_file_limit();
  if (o.model_names.empty())
    o.model_names = {
        replace_invalid_utf8(std::filesystem::weakly_canonical(o.checkpoint).filename().string())};
  Metrics metrics(o.model_names.front(), std::max(1, o.model.compute.data_parallel));
  Router router(std::move(routing), metrics);
  // The port is taken before a large model is loaded, so that a port in use is reported at once.
  // Connections are refused until requests can be answered: a second server that still loads its
  // model finds out about the port only then.
  HttpServer http(http_options(o, log), [&router](auto request, auto reply) {
    router.handle(std::move(request), std::move(reply));
  });

  say_plan(o.checkpoint, o.model);
  LoadedModel model(o.checkpoint, o.model, engine_options(o, metrics, log));
  ConstraintFactory constraints(model.tokenizer(), model.encoding(), model.stop_ids());
  SelectionStore selections(kSelectionBytes);
  Service service{model.engine(), model.tokenizer(), constraints,
                  metrics,        selections,        service_options(o, model)};
  describe(service.options, router.needs_keys());
  describe_cache(model, o);

  add_openai_routes(router, service);
  add_responses_routes(router, service);
  add_anthropic_routes(router, service);
  add_utility_routes(router, service);
  add_dsa_routes(router, service);
  add_page_routes(router);
  return serve(o, model.engine(), http, signals);
}

int run(const ServeFlags& o) {
  // A reader of standard error that goes away must cost log lines, not the server.
  std::signal(SIGPIPE, SIG_IGN);
  EndSignals signals;  // before the log's thread starts
  const auto log = std::make_shared<ServerLog>(log_level_of_name(o.log_level));
  const int code = load_and_serve(o, signals, log);
  // The reader of standard error may be blocked, and exit() would wait for the stream's lock.
  if (!log->finish(kLastLines)) ::_exit(code);
  return code;
}

void add_network_options(CLI::App& c, ServeFlags& o) {
  c.add_option("--host", o.host, "address to listen on")->capture_default_str();
  c.add_option("--port", o.port, "port to listen on, 0 for any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  c.add_option("--api-key", o.api_keys, "key that requests must carry (may be repeated)")
      ->take_all();
  c.add_option("--api-key-file", o.api_key_file, "file with one key a line");
  c.add_flag("--insecure", o.insecure, "serve everybody who reaches the address, without a key");
  c.add_option("--cors-origin", o.origins,
               "origin whose pages may use the server, * for all (may be repeated)")
      ->take_all();
  c.add_option("--max-body-mib", o.max_body_mib, "largest request body, in MiB")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  c.add_option("--request-timeout", o.request_timeout,
               "seconds that an answer may take, 0 for any time")
      ->check(number_from(0.0, 1e7))
      ->capture_default_str();
  c.add_option("--grace", o.grace, "seconds for answers to finish after SIGTERM or Ctrl-C")
      ->check(number_from(0.0, 1e7))
      ->capture_default_str();
  c.add_option("--http-threads", o.http_threads, "threads that read requests and write answers")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  c.add_option("--log-level", o.log_level, "debug, info (a line a request), warning, error or off")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}))
      ->capture_default_str();
  c.add_flag("--log-prompts", o.log_prompts, "log the text of requests too");
}

void add_engine_options(CLI::App& c, ServeFlags& o) {
  c.add_option("--served-model-name", o.model_names,
               "name of the model in requests and answers (may be repeated; default: the folder's)")
      ->take_all();
  c.add_option("--show-format", o.show_format,
               "tell the model the response format that a request has, as system text: on, off or "
               "auto (with the v3.2 encoding, whose models know it)")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  o.model.compute.add_sequences_to(c);
  c.add_option("--max-queue", o.max_queue, "requests that may wait; more get status 429")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  CLI::Option* none =
      c.add_flag("--no-enable-prefix-caching", o.no_prefixes,
                 "do not keep what was computed of prompts for requests that begin alike");
  c.add_option("--cache-dir", o.cache_dir,
               "folder where it is kept, too, and found again after a restart")
      ->excludes(none);
  c.add_option("--cache-dir-gib", o.cache_dir_gib,
               "GiB of that folder at most; what was not used for longest is removed")
      ->check(number_from(0.001, 1e6))
      ->capture_default_str();
  c.add_flag("--keep-selection", o.keep_selection,
             "keep what the indexer selected for the last answers (the page's DSA view)");
  o.model.add_to(c);
  o.model.add_load_format_to(c);
}

}  // namespace

void add_serve(CLI::App& app) {
  auto o = std::make_shared<ServeFlags>();
  CLI::App* c = app.add_subcommand("serve", "serve a model over HTTP (OpenAI's API and others)");
  c->add_option("--ckpt-path", o->checkpoint, "checkpoint folder, Hugging Face or converted")
      ->required();
  add_network_options(*c, *o);
  add_engine_options(*c, *o);
  on_run(*c, [o] { return run(*o); });
}

}  // namespace fathom::cli
