// fathom plan: which layout a model gets on given GPUs or processors, and what it leaves room for.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/thread_pool.h"
#include "base/units.h"
#include "bench/machine_limits.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/plan_machine.h"
#include "convert/presets.h"
#include "io/checkpoint_folder.h"
#include "io/machine.h"
#include "kernels/gpu.h"
#include "model/checkpoint.h"
#include "plan/measured.h"
#include "plan/plan_text.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kGpusOfNode = 8;  // where a GPU's model is named and no number

struct PlanFlags {
  std::string folder, config, gpu, device = "auto";
  std::optional<int> gpus, numa_nodes, tensor, data, concurrency;
  int nodes = 1, step_tokens = 0;
  std::optional<int64_t> context;
  std::optional<double> memory_gib, read_rate, dollars;
  int speculative_tokens = 0;
  bool json = false, check = false;
};

// Processors: those at hand unless sizes are given.
plan::Machine named_processors(const PlanFlags& o) {
  plan::Machine m;
  m.nodes = o.nodes;
  m.per_node = o.numa_nodes.value_or(numa_nodes());
  // Ranks may also be parts of one NUMA node's processors.
  if (!o.numa_nodes && (o.tensor || o.data))
    m.per_node = std::max(1, o.tensor.value_or(1) * o.data.value_or(1) / o.nodes);
  if (!o.numa_nodes) m.parts = std::max(1, m.per_node / numa_nodes());
  const int parts = o.numa_nodes ? numa_nodes() : m.per_node;  // of what is here
  m.memory = o.memory_gib ? static_cast<int64_t>(*o.memory_gib * kGiB) : available_memory() / parts;
  if (o.read_rate) m.read_rate = *o.read_rate * 1e9;
  if (!o.numa_nodes && !o.memory_gib && !o.read_rate && o.nodes == 1) {
    ThreadPool pool(0);
    const MachineLimits limits = measure_limits(Numerics::bf16, pool);
    m.read_rate = limits.read_per_s / parts;
    m.product_rate = limits.flops_per_s / parts;
  }
  return m;
}

// GPUs that are named, or the one that is here.
plan::Machine named_gpus(const PlanFlags& o) {
  plan::Machine m;
  m.nodes = o.nodes;
  if (!o.gpu.empty()) {
    m.gpu = &plan::gpu_model(o.gpu);
    m.per_node = o.gpus.value_or(kGpusOfNode);
  } else {
    const GpuInfo here = find_gpu();
    m.gpu = plan::gpu_model_of_driver(here.name);
    if (!m.gpu)
      throw UsageError(fmt::format(
          "which GPUs? --gpu names them{}",
          here.name.empty() ? ""
                            : ": this machine's, " + here.name + ", is not known to the planner"));
    m.per_node = o.gpus.value_or(1);
  }
  if (o.memory_gib) m.memory = static_cast<int64_t>(*o.memory_gib * kGiB);
  return m;
}

plan::Machine machine_of_flags(const PlanFlags& o) {
  const bool named = !o.gpu.empty() || o.gpus;
  if (o.device == "cpu" && named)
    throw UsageError("--device cpu plans for processors: --gpu and --gpus do not go with it");
  const bool processors_named = o.numa_nodes || o.read_rate;
  if (processors_named && (named || o.device == "cuda"))
    throw UsageError("--numa-nodes and --read-rate are of processors: --device cpu goes with them");
  const bool gpu =
      named || o.device == "cuda" || (o.device == "auto" && !processors_named && find_gpu().usable);
  plan::Machine m = gpu ? named_gpus(o) : named_processors(o);
  if (o.dollars) m.dollars_per_hour = *o.dollars;
  return m;
}

Json plan_json(const plan::Speed& s) {
  if (!s.known()) return nullptr;
  return {{"ms", s.ms},
          {"tokens_per_second", s.tokens_per_second},
          {"dollars_per_million", s.dollars_per_million}};
}

Json plan_json(const plan::LayoutPlan& l) {
  Json j = {{"name", l.name},
            {"tensor_parallel_size", l.layout.tensor},
            {"data_parallel_size", l.layout.data},
            {"fits", l.fits()}};
  if (!l.fits()) {
    j["refused"] = l.refused;
    return j;
  }
  j["weight_bytes"] = l.memory.weights;
  j["workspace_bytes"] = l.memory.workspace;
  j["cache_bytes"] = l.memory.cache;
  j["cache_tokens"] = l.cache_tokens;
  j["context"] = l.memory.context;
  j["room"] = Json::array();
  for (const plan::Room& r : l.rooms)
    j["room"].push_back({{"context", r.context}, {"sequences", r.sequences}});
  j["predicted"] = {{"context", l.context},
                    {"sequences", l.sequences},
                    {"prompt", plan_json(l.prompt)},
                    {"decode_one", plan_json(l.one)},
                    {"decode_many", plan_json(l.many)}};
  return j;
}

Json plan_json(const plan::Plan& p) {
  const plan::Machine& m = p.machine;
  Json j;
  j["model"] = {{"checkpoint_bytes", p.checkpoint}, {"mtp_bytes", p.mtp}};
  j["machine"] = {{"device", m.gpu ? "cuda" : "cpu"},
                  {"gpu", m.gpu ? Json(m.gpu->name) : Json(nullptr)},
                  {"nodes", m.nodes},
                  {"ranks_per_node", m.per_node},
                  {"rank_memory_bytes", m.rank_memory()},
                  {"read_bytes_per_second", m.gpu ? m.gpu->read_rate : m.read_rate},
                  {"dollars_per_hour", m.dollars_per_hour}};
  j["request"] = {{"context", p.request.context},
                  {"concurrency", p.request.concurrency},
                  {"step_tokens", p.request.step_tokens}};
  j["layouts"] = Json::array();
  for (const plan::LayoutPlan& l : p.layouts) j["layouts"].push_back(plan_json(l));
  j["recommended"] = p.best() ? Json(p.best()->name) : Json(nullptr);
  j["why"] = p.why;
  j["would_fit"] = p.would_fit;
  j["commands"] = p.commands;
  j["notes"] = p.notes;
  return j;
}

void print_plan_json(const Json& json) {
  // Paths may hold broken UTF-8.
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

int print_comparison(const PlanFlags& o) {
  const auto rows =
      plan::compare_with_measured(parse_config(preset_config("671b-layers=58"), "671b"));
  if (!o.json) {
    fmt::print("{}", plan::text_of(rows));
    return 0;
  }
  Json all = Json::array();
  for (const plan::Comparison& c : rows)
    all.push_back({{"on", c.where},
                   {"what", c.what},
                   {"measured_us", c.measured},
                   {"predicted_us", c.predicted},
                   {"fitted", c.fitted}});
  print_plan_json(all);
  return 0;
}

// A plan is made of the config alone, before weights are there. Where they are, they must be that
// model's: the commands that are printed would refuse them.
void check_weights(const PlanFlags& o, const Config& config) {
  if (o.folder.empty() || safetensors_in(o.folder).empty()) return;
  std::optional<CheckpointFiles> files;
  try {
    files = CheckpointFiles::open(o.folder);
  } catch (const Error& e) {
    fmt::print(stderr, "note: the weights are not compared with the config: {}\n", e.what());
    return;
  }
  const std::vector<std::string> problems = check_checkpoint(*files, config).problems;
  if (problems.empty()) return;
  fail("{}: its weights do not fit {}: {}{}", o.folder,
       o.config.empty() ? "its config.json" : o.config, problems[0],
       problems.size() == 1 ? "" : fmt::format(" (and {} more problems)", problems.size() - 1));
}

int run_plan(const PlanFlags& o) {
  if (o.check) return print_comparison(o);
  if (o.folder.empty() && o.config.empty())
    throw UsageError("plan needs --ckpt-path or --config: the model that is planned for");
  const Config config = load_config(o.folder, o.config);
  check_weights(o, config);
  plan::Request request;
  request.context = o.context.value_or(0);
  request.concurrency = o.concurrency.value_or(0);
  request.step_tokens = o.step_tokens;
  request.mtp = o.speculative_tokens > 0;
  request.tensor = o.tensor;
  request.data = o.data;
  request.folder = o.folder;
  request.config_file = o.config;
  if (!o.folder.empty()) request.converted_ranks = converted_ranks(o.folder);
  const plan::Plan p = plan::make_plan(config, machine_of_flags(o), request);
  if (o.json)
    print_plan_json(plan_json(p));
  else
    fmt::print("{}", plan::text_of(p));
  return p.best() ? 0 : 1;
}

void add_planned_machine(CLI::App& c, PlanFlags& o) {
  c.add_option("--device", o.device, "cpu, cuda, or auto: GPUs where they are named or found")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  c.add_option("--gpu", o.gpu,
               "h200, h100, h800, h20, a100-80, a100-40 or b200 (default: the one here)");
  c.add_option("--gpus", o.gpus, "GPUs of each machine (default: 8 of a named one)")
      ->check(CLI::Range(1, 64));
  c.add_option("--nodes", o.nodes, "machines")->check(CLI::Range(1, 64))->capture_default_str();
  c.add_option("--numa-nodes", o.numa_nodes,
               "with --device cpu: NUMA nodes of each machine, a rank each (default: those here)")
      ->check(CLI::Range(1, 64));
  c.add_option("--memory-gib", o.memory_gib,
               "GiB that a GPU or NUMA node has free (default: its model's, or what is free here)")
      ->check(number_from(0.001, 1e6));
  c.add_option("--read-rate", o.read_rate,
               "GB/s that a NUMA node reads (default: measured where this machine is planned for)")
      ->check(number_from(0.001, 1e6));
  c.add_option("--dollars-per-hour", o.dollars,
               "what a GPU costs, or a machine of processors (default: 2)")
      ->check(number_from(1e-6, 1e6));
}

}  // namespace

void add_plan(CLI::App& app) {
  auto o = std::make_shared<PlanFlags>();
  CLI::App* c = app.add_subcommand(
      "plan",
      "show memory, speed and price of a model on given GPUs or processors, and how to run it");
  c->add_option("--ckpt-path", o->folder, "checkpoint folder, Hugging Face or converted");
  c->add_option("--config", o->config,
                "config file instead of the folder's config.json (both formats); enough alone");
  add_planned_machine(*c, *o);
  c->add_option("--context,--max-model-len", o->context,
                "tokens of prompt and answer together that must fit (default: what fits)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  c->add_option("--concurrency,--max-num-seqs", o->concurrency,
                "sequences at once, of all ranks together (default: 64 a rank)")
      ->check(CLI::Range(1, 65536));
  c->add_option("--step-tokens", o->step_tokens,
                "tokens of one step (default: 512 on a CPU, 4096 on a GPU)")
      ->check(CLI::Range(1, 1 << 16));
  c->add_option("--speculative-tokens", o->speculative_tokens,
                "more than 0: the MTP layer is loaded, too; speeds are those without drafts")
      ->check(CLI::Range(0, 4));
  c->add_option("--tensor-parallel-size", o->tensor,
                "plan this layout alone: ranks of an attention group")
      ->check(CLI::Range(1, 4096));
  c->add_option("--data-parallel-size", o->data, "likewise: attention groups")
      ->check(CLI::Range(1, 4096));
  c->add_flag("--json", o->json, "print one JSON object");
  c->add_flag("--check", o->check,
              "print what the predictions are for what was measured, and the errors");
  on_run(*c, [o] { return run_plan(*o); });
}

}  // namespace fathom::cli
