#include "cli/bench_serve.h"

#include <unistd.h>

#include "base/output_file.h"
#include "cli/file_limit.h"
#include "cli/options.h"
#include "loadgen/load_client.h"
#include "loadgen/load_plan.h"
#include "loadgen/load_report.h"

namespace fathom::cli {
namespace {

struct BenchServeFlags {
  std::string base_url = "http://127.0.0.1:8000", endpoint = "chat", api_key, model, svg, save;
  loadgen::LoadOptions load;
  int max_concurrency = 0;
  double request_seconds = 600;
  bool ignore_eos = true, json = false;
};

int bench_serve(const BenchServeFlags& o) {
  for (const std::string& path : {o.save, o.svg})
    if (!path.empty()) check_output_file(path);
  raise_file_limit();  // each request in flight is a connection
  loadgen::LoadTarget target = loadgen::parse_target(o.base_url);
  target.api_key = o.api_key;
  target.model = o.model;
  target.chat = o.endpoint == "chat";
  target.ignore_eos = o.ignore_eos;
  target.max_concurrency = o.max_concurrency;
  target.request_seconds = o.request_seconds;
  const double tokens_per_word = loadgen::measure_tokens_per_word(target);
  const auto plan = loadgen::plan_load(o.load, tokens_per_word);

  const bool show_progress = isatty(STDERR_FILENO) != 0;
  const auto results = loadgen::run_load(target, plan, [&](int ended) {
    if (show_progress) fmt::print(stderr, "\r{} of {} requests", ended, plan.size());
  });
  if (show_progress) fmt::print(stderr, "\r\033[K");
  const loadgen::LoadReport report = loadgen::report_of(results);
  const std::string json = loadgen::json_of(report, o.load, target, results);
  fmt::print("{}\n", o.json ? json : loadgen::table_of(report));
  if (!o.save.empty()) write_output_file(o.save, json + "\n");
  if (!o.svg.empty()) write_output_file(o.svg, loadgen::svg_of(report, results));
  return report.failed == 0 && report.completed > 0 ? 0 : 1;
}

}  // namespace

std::function<bool(int&)> add_bench_serve(CLI::App& bench) {
  auto o = std::make_shared<BenchServeFlags>();
  CLI::App* command = bench.add_subcommand(
      "serve", "load on a server that speaks OpenAI's protocol: throughput and waiting times");
  command->add_option("--base-url", o->base_url, "where it listens")->capture_default_str();
  command->add_option("--endpoint", o->endpoint, "chat or completions")
      ->check(CLI::IsMember({"chat", "completions"}))
      ->capture_default_str();
  command->add_option("--api-key", o->api_key, "sent as a bearer token");
  command->add_option("--model", o->model, "named in every request (default: none)");
  command->add_option("--num-prompts", o->load.requests, "requests in all")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command
      ->add_option("--request-rate", o->load.rate,
                   "arrivals a second at random moments (Poisson); 0: all at once")
      ->check(number_from(0.0, 1e6))
      ->capture_default_str();
  command
      ->add_option("--burstiness", o->load.burstiness,
                   "1: Poisson; below 1: arrivals come in bursts; above: evenly")
      ->check(number_from(0.01, 1e4))
      ->capture_default_str();
  command
      ->add_option("--max-concurrency", o->max_concurrency,
                   "requests at once, later ones wait on this side; 0: no limit")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  command
      ->add_option("--random-input-len", o->load.input_tokens,
                   "tokens of a prompt; of several, e.g. 100,3000, each request takes one")
      ->delimiter(',')
      ->check(CLI::Range(1, 10000000))
      ->capture_default_str();
  command->add_option("--random-output-len", o->load.output_tokens, "tokens of an answer")
      ->check(CLI::Range(1, 10000000))
      ->capture_default_str();
  command
      ->add_option("--random-range-ratio", o->load.range_ratio,
                   "both lengths spread evenly by up to this share either way")
      ->check(number_from(0.0, 1.0))
      ->capture_default_str();
  command
      ->add_option("--random-prefix-len", o->load.shared_prefix,
                   "tokens that all prompts begin with")
      ->check(CLI::Range(0, 10000000))
      ->capture_default_str();
  command->add_option("--seed", o->load.seed, "the same seed sends the same load")
      ->capture_default_str();
  command->add_option("--timeout", o->request_seconds, "seconds after which a request has failed")
      ->check(number_from(0.001, 1e7))
      ->capture_default_str();
  command->add_flag("--ignore-eos,!--no-ignore-eos", o->ignore_eos,
                    "ask for answers of full length (default)");
  command->add_flag("--json", o->json, "print one JSON object instead of a table");
  command->add_option("--save-result", o->save, "write the JSON object to this file");
  command->add_option("--svg", o->svg, "draw the waiting times to this file");
  return [o, command](int& exit_code) {
    if (!command->parsed()) return false;
    exit_code = bench_serve(*o);
    return true;
  };
}

}  // namespace fathom::cli
