#include "cli/bench_gpu.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/units.h"
#include "bench/bench_runner.h"
#include "bench/gpu_bench.h"
#include "cli/command.h"
#include "cli/processes.h"
#include "convert/presets.h"
#include "model/checkpoint.h"
#include "plan/step_times.h"
#include "runtime/device.h"
#include "runtime/orders.h"

namespace fathom::cli {
namespace {

// The layers of the whole model, of which 671b-layers=N is a slice: all of them, and the dense
// ones.
constexpr int kWholeLayers = 61, kWholeDense = 3;

double dollars_of_all(const GpuBenchOptions& o) {
  return o.dollars_per_hour * o.compute.layout.ranks();
}

// What the planner expects of a row: of its MoE layer where layers were told apart, of the whole
// step where all layers of the model were run. Nothing is predicted of steps with drafts, of dense
// attention in a model with an indexer, and on a GPU that the planner does not know.
class Predictions {
 public:
  Predictions(const Config& config, const GpuInfo& gpu, const ComputePlan& compute)
      : indexer_(config.has_indexer()), whole_(config.layers == kWholeLayers) {
    if (const plan::GpuModel* model = plan::gpu_model_of_driver(gpu.name))
      times_.emplace(config, compute.layout, *model, compute.numerics, compute.layout.ranks());
  }
  // 0 where nothing is predicted.
  double layer_ms(const GpuBenchRow& r) const {
    if (!predicts(r) || r.layer_ms <= 0) return 0;
    const plan::LayerTime time = r.decode
                                     ? times_->decode_layer(true, r.batch, r.context)
                                     : times_->prompt_layer(true, r.batch, r.context - r.batch);
    return time.total() / 1e3;
  }
  double step_ms(const GpuBenchRow& r) const {
    if (!predicts(r) || !whole_ || r.ms <= 0) return 0;
    return (r.decode ? times_->decode_step(r.batch, r.context)
                     : times_->prompt_chunk(r.batch, r.context - r.batch)) /
           1e3;
  }

 private:
  bool predicts(const GpuBenchRow& r) const {
    return times_ && r.tokens_per_run == 1 && !(indexer_ && r.attention == AttentionMode::dense);
  }

  bool indexer_, whole_;
  std::optional<plan::StepTimes> times_;
};

void print_predictions(const std::vector<GpuBenchRow>& rows, const Predictions& predictions) {
  auto print = [](const GpuBenchRow& r, double ms, const char* of, double measured) {
    if (ms > 0)
      fmt::print("plan predicts {} {} at {}: {:.3f} ms a {}, {:+.1f} % of what was measured\n",
                 r.decode ? "decode" : "prefill", r.batch, r.context, ms, of,
                 100 * (ms / measured - 1));
  };
  for (const GpuBenchRow& r : rows) {
    print(r, predictions.layer_ms(r), "layer", r.layer_ms);
    print(r, predictions.step_ms(r), "step", r.ms);
  }
}

void print(const std::vector<GpuBenchRow>& rows, const GpuBenchOptions& o) {
  fmt::print("{:<8} {:<8} {:>8} {:>6} {:>10} {:>10} {:>10} {:>12} {:>12} {:>9}\n", "mode", "phase",
             "context", "tokens", "ms", "tok/s", "ms/layer", "61 layers ms", "tok/s", "$/M tok");
  for (const GpuBenchRow& r : rows) {
    fmt::print("{:<8} {:<8} {:>8} {:>6} ", name_of(r.attention), r.decode ? "decode" : "prefill",
               r.context,
               r.tokens_per_run == 1 ? fmt::format("{}", r.batch)
                                     : fmt::format("{:.2f}", r.batch * r.tokens_per_run));
    if (!r.skipped.empty())
      fmt::print("skipped: {}\n", r.skipped);
    else if (r.whole_ms > 0)
      fmt::print("{:>10.3f} {:>10.0f} {:>10.3f} {:>12.2f} {:>12.1f} {:>9.3f}\n", r.ms,
                 r.tokens_per_s(), r.layer_ms, r.whole_ms, r.whole_tokens_per_s(),
                 r.dollars(dollars_of_all(o)));
    else
      fmt::print("{:>10.3f} {:>10.0f} {:>10} {:>12} {:>12} {:>9.3f}\n", r.ms, r.tokens_per_s(), "",
                 "", "", r.dollars(dollars_of_all(o)));
  }
  const bool whole =
      std::any_of(rows.begin(), rows.end(), [](const GpuBenchRow& r) { return r.whole_ms > 0; });
  if (whole)
    fmt::print(
        "\n61 layers: 3 dense, 58 MoE, all experts' weights on the GPUs that run a layer; "
        "${:.2f} an hour and GPU, communication {}\n",
        o.dollars_per_hour,
        o.compute.layout.ranks() > 1
            ? fmt::format("between {} ranks counted", o.compute.layout.ranks())
            : "not counted");
  else
    fmt::print("\n$/M tok: of the layers that were run; ${:.2f} an hour and GPU\n",
               o.dollars_per_hour);
  if (const int groups = o.compute.layout.data; groups > 1)
    fmt::print("tokens: of each of {} groups; tok/s of all together\n", groups);
}

void print_json(const std::vector<GpuBenchRow>& rows, const GpuBenchOptions& o,
                const Predictions& predictions, const GpuInfo& gpu) {
  nlohmann::ordered_json out;
  out["gpu"] = gpu.name;
  out["numerics"] = name_of(o.compute.numerics);
  out["tensor_parallel_size"] = o.compute.layout.tensor;
  out["data_parallel_size"] = o.compute.layout.data;
  out["dollars_per_hour"] = o.dollars_per_hour;
  out["rows"] = nlohmann::ordered_json::array();
  for (const GpuBenchRow& r : rows) {
    nlohmann::ordered_json j = {{"attention", name_of(r.attention)},
                                {"phase", r.decode ? "decode" : "prefill"},
                                {"context", r.context},
                                {"tokens", r.batch}};
    if (r.tokens_per_run != 1) j["tokens_per_run"] = r.tokens_per_run;
    if (!r.skipped.empty()) {
      j["skipped"] = r.skipped;
    } else {
      j["ms"] = r.ms;
      j["tokens_per_second"] = r.tokens_per_s();
      if (r.whole_ms > 0) {
        j["layer_ms"] = r.layer_ms;
        if (const double ms = predictions.layer_ms(r); ms > 0) j["plan_layer_ms"] = ms;
        j["whole_ms"] = r.whole_ms;
      }
      if (const double ms = predictions.step_ms(r); ms > 0) j["plan_ms"] = ms;
      j["dollars_per_million"] = r.dollars(dollars_of_all(o));
    }
    out["rows"].push_back(j);
  }
  fmt::print("{}\n", out.dump(2));
}

}  // namespace

int bench_on_gpu(const GpuBenchFlags& flags, const ComputePlan& compute) {
  const RankLayout& layout = compute.layout;
  check_processes(flags.path, flags.config, compute);
  const GpuInfo gpu = find_gpu(layout.ranks_here());
  GpuBenchOptions o;
  o.compute = compute;
  const Numerics numerics = compute.numerics;
  if (flags.attention) o.attention = {*flags.attention};
  o.dollars_per_hour = flags.dollars_per_hour;
  o.acceptance = flags.acceptance;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<DeviceWeights> weights;
  Config config;
  if (!flags.random.empty()) {
    const std::string preset = preset_config(flags.random);
    config = parse_config(preset, "preset " + flags.random);
    config.mtp_layers = compute.mtp ? 1 : 0;  // a slice has the block that its steps need
    check_plan(config, compute);
    if (compute.link) use_random_model(*compute.link, preset, flags.seed);
    place_followers(config, compute);
    weights = std::make_unique<DeviceWeights>(
        DeviceWeights::random(config, compute, flags.seed, "--random " + flags.random));
    if (flags.random.starts_with("671b")) {
      o.whole_layers = kWholeLayers;
      o.whole_dense = kWholeDense;
    }
  } else {
    CheckpointOptions loading;
    loading.config_file = flags.config;
    loading.with_mtp = compute.mtp;
    loading.layout = layout;
    checkpoint = Checkpoint::load(flags.path, loading);
    config = checkpoint->config();
    check_plan(config, compute);
    weights = std::make_unique<DeviceWeights>(config, checkpoint->rank_weights(), compute, true);
  }
  if (const std::optional<int64_t> free = memory_of_others())
    o.free_elsewhere = *free - weights->bytes_on_gpu();
  if (!config.has_indexer()) o.attention = {AttentionMode::dense};
  if (!flags.contexts.empty()) o.contexts = flags.contexts;
  if (!flags.batches.empty()) o.batches = flags.batches;
  if (flags.decode_steps) o.decode_steps = *flags.decode_steps;
  const int64_t longest = config.max_positions - kBenchSlack;
  if (flags.contexts.empty())
    for (int64_t& context : o.contexts) context = std::min(context, longest);
  std::sort(o.contexts.begin(), o.contexts.end());
  o.contexts.erase(std::unique(o.contexts.begin(), o.contexts.end()), o.contexts.end());
  for (int64_t context : o.contexts)
    if (context < 1 || context > longest)
      throw UsageError(
          fmt::format("a context of {}: 1 to {} are possible, {} decoded tokens follow", context,
                      longest, kBenchSlack));
  for (int batch : o.batches)
    if (batch < 1 || batch > kMaxBatch)
      throw UsageError(fmt::format("a batch of {}: 1 to {} are possible", batch, kMaxBatch));
  fmt::print(stderr, "{}{}; {} layers, {} of weights on a GPU, {} numerics\n",
             layout.ranks() > 1 ? fmt::format("{} x ", layout.ranks()) : "", gpu.name,
             config.layers, bytes_text(weights->bytes_on_gpu()), name_of(numerics));
  const auto rows = bench_gpu(config, weights->ranks(), o,
                              [](const std::string& text) { fmt::print(stderr, "{}\n", text); });
  const Predictions predictions(config, gpu, o.compute);
  if (flags.json) {
    print_json(rows, o, predictions, gpu);
    return 0;
  }
  print(rows, o);
  print_predictions(rows, predictions);
  return 0;
}

}  // namespace fathom::cli
