// fathom bench: prompt and generation speed by context and batch, what that needs by the cost model
// (bench/cost_model.h), and how far it is from what this machine can do. Its subcommands measure
// the GPU's kernels and servers.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/units.h"
#include "bench/bench_runner.h"
#include "bench/gpu_kernels.h"
#include "cli/bench_gpu.h"
#include "cli/bench_serve.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/processes.h"
#include "model/checkpoint.h"
#include "model/footprint.h"
#include "runtime/device.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::ordered_json;

struct BenchFlags {
  std::string path, config;
  ComputeOptions compute;
  std::vector<int64_t> contexts;
  std::vector<int> batches;
  std::string random;
  uint64_t seed = 1;
  double dollars_per_hour = 2.0;
  std::optional<int> decode_tokens, repeat;
  double acceptance = 0.8;
  bool json = false;

  int steps() const { return decode_tokens.value_or(32); }
};

// What is known before the first figure, for the head of the table and of the JSON.
struct BenchSubject {
  const BenchFlags& options;
  const ComputePlan& compute;
  const Config& config;
  const BenchRunner& runner;

  const BenchSetup& setup() const { return runner.setup(); }
  ParameterCount parameters() const { return count_parameters(config); }
  std::string_view attention() const {
    return name_of(config.has_indexer() ? compute.attention : AttentionMode::dense);
  }
};

std::string count_text(double n) {
  return n >= 1e9 ? fmt::format("{:.1f} B", n / 1e9) : fmt::format("{:.2f} M", n / 1e6);
}

void print_head(const BenchSubject& s) {
  const BenchSetup& setup = s.setup();
  const MachineLimits& limits = setup.limits;
  fmt::print("machine   {}, {} threads; reads {}, multiplies {} ({})\n", limits.processor,
             limits.threads, rate_text(limits.read_per_s), flop_rate_text(limits.flops_per_s),
             limits.instruction);
  fmt::print(
      "model     {}: {}, {} layers, {} parameters ({} active), {} of weights\n", s.options.path,
      s.config.model_type, s.config.layers, count_text(static_cast<double>(s.parameters().total)),
      count_text(static_cast<double>(s.parameters().active)), bytes_text(setup.volumes.bytes()));
  fmt::print("compute   {} numerics, {} attention, {} cache of {} bytes a token, {}\n\n",
             name_of(s.compute.numerics), s.attention(), name_of(setup.cache.latent_format),
             setup.cache.bytes_per_token(), setup.kernels);
  if (const int groups = s.compute.layout.data; groups > 1)
    fmt::print("batch     of each of {} groups; tok/s of all together\n\n", groups);
  fmt::print("{:>7} {:>5} | {:^28} | {:^62}\n", "", "", "prefill", "decode");
  fmt::print("{:>7} {:>5} | {:>10} {:>9} {:>7} | {:>9} {:>9} {:>9} {:>7} {:>7} {:>8} {:>7}{}\n",
             "context", "batch", "tok/s", "GFLOP/s", "of peak", "tok/s", "ms/step", "MiB/step",
             "GB/s", "of mem", "GFLOP/s", "experts",
             s.compute.speculative_tokens > 0 ? " tok/step accepted" : "");
}

// `drafts`: of a sequence in a step.
void print_row(const MachineLimits& limits, const BenchRow& row, int drafts) {
  fmt::print("{:>7} {:>5} | ", row.context, row.batch);
  if (!row.skipped.empty()) {
    fmt::print("skipped: {}\n", row.skipped);
    check_output();
    return;
  }
  if (const auto& p = row.prefill)
    fmt::print("{:>10.1f} {:>9.1f} {:>6.1f}% | ", p->tokens_per_s(), p->flops_per_s() / 1e9,
               100 * p->flops_per_s() / limits.flops_per_s);
  else
    fmt::print("{:>10} {:>9} {:>7} | ", "", "", "");
  const BenchFigure& d = *row.decode;
  fmt::print("{:>9.1f} {:>9.3f} {:>9.2f} {:>7.2f} {:>6.1f}% {:>8.1f} {:>7.1f}{}\n",
             d.tokens_per_s(), d.seconds * 1e3, d.cost.bytes.total() / kMiB, d.bytes_per_s() / 1e9,
             100 * d.bytes_per_s() / limits.read_per_s, d.flops_per_s() / 1e9, d.experts_per_layer,
             drafts > 0 ? fmt::format(" {:>8.2f} {:>7.1f}%", d.tokens_per_run,
                                      100 * (d.tokens_per_run - 1) / drafts)
                        : "");
  check_output();  // long runs are watched through pipes
}

Json head_json(const BenchSubject& s) {
  const BenchSetup& setup = s.setup();
  const MachineLimits& limits = setup.limits;
  Json j;
  j["machine"] = {{"processor", limits.processor},
                  {"threads", limits.threads},
                  {"load_before", limits.load},
                  {"last_level_cache_bytes", limits.last_level_cache},
                  {"read_bytes_per_second", limits.read_per_s},
                  {"read_buffer_bytes", limits.buffer},
                  {"flops_per_second", limits.flops_per_s},
                  {"instruction", limits.instruction}};
  j["model"] = {{"path", s.options.path},
                {"type", s.config.model_type},
                {"layers", s.config.layers},
                {"parameters", s.parameters().total},
                {"active_parameters", s.parameters().active},
                {"weight_bytes", setup.volumes.bytes()},
                {"cache_bytes_per_token", setup.cache.bytes_per_token()}};
  j["compute"] = {{"numerics", name_of(s.compute.numerics)},
                  {"attention", s.attention()},
                  {"kv", name_of(setup.cache.latent_format)},
                  {"batch_invariant", s.compute.batch_invariant},
                  {"kernels", setup.kernels},
                  {"step_tokens", s.compute.step_tokens},
                  {"decode_tokens", s.options.steps()},
                  {"speculative_tokens", s.compute.speculative_tokens},
                  {"tensor_parallel_size", s.compute.layout.tensor},
                  {"data_parallel_size", s.compute.layout.data}};
  if (s.compute.speculative_tokens > 0) j["compute"]["acceptance"] = s.options.acceptance;
  return j;
}

Json figure_json(const MachineLimits& limits, const BenchFigure& f) {
  const auto& b = f.cost.bytes;
  const auto& p = f.cost.flops;
  return {
      {"tokens_per_second", f.tokens_per_s()},
      {"seconds", f.seconds},
      {"runs", f.runs},
      {"tokens", f.tokens},
      {"tokens_per_run", f.tokens_per_run},
      {"bytes",
       {{"weights", b.weights}, {"experts", b.experts}, {"cache", b.cache}, {"total", b.total()}}},
      {"flops",
       {{"projections", p.projections},
        {"experts", p.experts},
        {"indexer", p.indexer},
        {"attention", p.attention},
        {"head", p.head},
        {"total", p.total()}}},
      {"bytes_per_second", f.bytes_per_s()},
      {"memory_share", f.bytes_per_s() / limits.read_per_s},
      {"flops_per_second", f.flops_per_s()},
      {"product_share", f.flops_per_s() / limits.flops_per_s},
      {"experts_per_layer", f.experts_per_layer}};
}

Json row_json(const MachineLimits& limits, const BenchRow& row) {
  Json j = {{"context", row.context}, {"batch", row.batch}};
  if (!row.skipped.empty()) j["skipped"] = row.skipped;
  if (row.prefill) j["prefill"] = figure_json(limits, *row.prefill);
  if (row.decode) j["decode"] = figure_json(limits, *row.decode);
  return j;
}

BenchOptions bench_options(const BenchFlags& o, const ComputePlan& compute, const Config& config) {
  BenchOptions b;
  b.compute = compute;
  b.contexts = o.contexts;
  b.batches = o.batches.empty() ? std::vector<int>{1, 8} : o.batches;
  b.decode_tokens = o.steps();
  b.repeat = o.repeat.value_or(3);
  b.acceptance = o.acceptance;
  // What the user names is taken at its word; the default bends to small models.
  const int64_t longest = std::max<int64_t>(
      1, config.max_positions - int64_t{o.steps() + 1} * (1 + compute.speculative_tokens) + 1);
  if (b.contexts.empty())
    for (int64_t context : {512, 2048})
      if (context <= longest) b.contexts.push_back(context);
  if (b.contexts.empty()) b.contexts.push_back(longest);
  return b;
}

// A flag that a run would ignore, and why.
struct Unused {
  const char* flag;
  const char* why;
};
constexpr Unused kUnusedOnGpu[] = {
    {"--repeat", "on a GPU a figure is the median of the steps that --decode-tokens counts"},
    {"--threads", "on a GPU one thread launches the steps"},
};
constexpr Unused kUnusedOnCpu[] = {
    {"--random",
     "it fills the memory of a GPU; on a CPU measure a folder of `fathom make-checkpoint`"},
    {"--dollars-per-hour", "it is what a GPU costs"},
};
constexpr Unused kUnusedWithRandom[] = {{"--config", "--random names its own configuration"}};
constexpr Unused kUnusedWithFolder[] = {{"--seed", "only the weights of --random have one"}};

void refuse(const CLI::App& command, std::span<const Unused> unused) {
  for (const Unused& u : unused)
    if (command.count(u.flag) > 0) throw UsageError(fmt::format("{}: {}", u.flag, u.why));
}

// Every flag that is given is used or refused; none is ignored. With --device cuda the flags are
// checked before a GPU is looked for.
bool runs_on_gpu(const CLI::App& command, const BenchFlags& o) {
  if (o.path.empty() == o.random.empty())
    throw UsageError("bench needs either --ckpt-path or --random");
  if (o.random.empty())
    refuse(command, kUnusedWithFolder);
  else
    refuse(command, kUnusedWithRandom);
  if (o.compute.device == "cuda") refuse(command, kUnusedOnGpu);
  if (command.count("--speculative-always") > 0)
    throw UsageError("--speculative-always: a bench always has as many drafts as it is given");
  const bool gpu = o.compute.plan().device == DeviceKind::cuda;
  if (gpu)
    refuse(command, kUnusedOnGpu);
  else
    refuse(command, kUnusedOnCpu);
  return gpu;
}

// Refuses flags of `bench` itself that are given with a subcommand.
void refuse_beside(const CLI::App& subcommand, const CLI::App& command) {
  for (const CLI::Option* option : command.get_options())
    if (option->count() > 0)
      throw UsageError(fmt::format("{} is no flag of `fathom bench {}`", option->get_name(),
                                   subcommand.get_name()));
}

int bench(const CLI::App& command, const BenchFlags& o) {
  const bool gpu = runs_on_gpu(command, o);
  const ComputePlan compute = o.compute.plan(o.path);
  if (command.count("--acceptance") > 0 && compute.speculative_tokens == 0)
    throw UsageError("--acceptance: it is of drafts; give --speculative-tokens, too");
  if (gpu) {
    GpuBenchFlags flags{o.path,       o.random,  o.config,        o.seed,
                        o.contexts,   o.batches, o.decode_tokens, o.dollars_per_hour,
                        o.acceptance, {},        o.json};
    if (command.count("--attention") > 0) flags.attention = compute.attention;
    return bench_on_gpu(flags, compute);
  }
  check_processes(o.path, o.config, compute);
  CheckpointOptions loading;
  loading.config_file = o.config;
  // Where it is not run it is no reason to refuse, and not read.
  loading.with_mtp = compute.speculative_tokens > 0;
  auto checkpoint = Checkpoint::load(o.path, loading);
  const Config& config = checkpoint->config();
  for (const std::string& warning : checkpoint->warnings())
    fmt::print(stderr, "fathom: warning: {}\n", warning);

  std::unique_ptr<Checkpoint> ranks;
  if (compute.layout.ranks() > 1) {
    loading.layout = compute.layout;
    ranks = Checkpoint::load(o.path, loading);
  }
  say_computing_threads(o.compute.threads);
  const DeviceWeights weights(config, (ranks ? *ranks : *checkpoint).rank_weights(), compute);
  BenchRunner runner(config, ranks ? checkpoint->weights() : weights.get(), weights.ranks(),
                     bench_options(o, compute, config));
  const BenchSubject subject{o, compute, config, runner};
  const MachineLimits& limits = runner.setup().limits;
  Json rows = Json::array();
  bool any = false;
  if (!o.json) print_head(subject);
  runner.run([&](const BenchRow& row) {
    any |= row.skipped.empty();
    if (o.json)
      rows.push_back(row_json(limits, row));
    else
      print_row(limits, row, compute.speculative_tokens);
  });

  if (o.json) {
    Json out = head_json(subject);
    out["rows"] = std::move(rows);
    out["notes"] = runner.notes();
    fmt::print("{}\n", out.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    if (!runner.notes().empty()) fmt::print("\n");
    for (const std::string& note : runner.notes()) fmt::print("note: {}\n", note);
  }
  return any ? 0 : 1;
}

}  // namespace

void add_bench(CLI::App& app) {
  auto o = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand(
      "bench", "measure prompt and generation speed beside what this machine can do");
  command->add_option("--ckpt-path", o->path, "checkpoint folder");
  command->add_option(
      "--random", o->random,
      "on a GPU: random weights of a preset, 671b or e.g. 671b-layers=4, without a file");
  command->add_option("--seed", o->seed, "of the weights of --random")->capture_default_str();
  command
      ->add_option("--dollars-per-hour", o->dollars_per_hour,
                   "on a GPU: what it costs, for the price of a million tokens")
      ->check(number_from(1e-6, 1e6))
      ->capture_default_str();
  command->add_option("--config", o->config,
                      "config file instead of the folder's config.json (both formats)");
  command
      ->add_option("--context", o->contexts,
                   "tokens of prompt and cache, e.g. 512,2048 (default: these; on a GPU "
                   "2048,32768,131072)")
      ->delimiter(',');
  command
      ->add_option("--batch", o->batches,
                   "sequences decoded at once, e.g. 1,8 (default: these; on a GPU 1,16,64)")
      ->delimiter(',');
  command
      ->add_option("--decode-tokens", o->decode_tokens,
                   "decode steps of one run (default: 32); on a GPU of which a figure is the "
                   "median (default: 21)")
      ->check(CLI::Range(1, 100000));
  command
      ->add_option("--repeat", o->repeat,
                   "on a CPU: runs of which a figure is the median, fewer when slow (default: 3)")
      ->check(CLI::Range(1, 1000));
  command
      ->add_option("--acceptance", o->acceptance,
                   "with drafts: the share of them that is taken as accepted, as the "
                   "tokens are random")
      ->check(number_from(0.0, 1.0))
      ->capture_default_str();
  command->add_flag("--json", o->json, "print one JSON object");
  o->compute.add_speculation_to(*command);
  o->compute.add_ranks_to(*command);
  o->compute.add_groups_to(*command);
  o->compute.add_to(*command);
  o->compute.add_step_tokens_to(*command);
  auto only = std::make_shared<std::string>();
  CLI::App* kernels = command->add_subcommand(
      "kernels", "time each GPU kernel at the model's shapes, beside what this card can do");
  kernels->add_option("--only", *only, "families and shapes whose name contains this");
  on_run(*command, [o, command, kernels, only, serve = add_bench_serve(*command)] {
    for (const CLI::App* subcommand : command->get_subcommands()) {
      refuse_beside(*subcommand, *command);
      require_one_process(*subcommand);
    }
    if (int exit_code = 0; serve(exit_code)) return exit_code;
    if (!kernels->parsed()) return bench(*command, *o);
    choose_device("cuda");  // or an error that says why not
    bench_gpu_kernels(*only);
    return 0;
  });
}

}  // namespace fathom::cli
