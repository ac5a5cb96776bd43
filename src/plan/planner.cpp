#include "plan/planner.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "base/error.h"
#include "base/units.h"
#include "cache/kv_pool.h"
#include "plan/cpu_times.h"
#include "plan/step_times.h"
#include "runtime/engine.h"

namespace fathom::plan {
namespace {

// A CPU's ranks may be any parts of its processors, as many as --data-parallel-size takes.
constexpr int kMostGpus = 64, kMostParts = 1024, kMostNodes = 64, kMostSequences = 65536;
constexpr int64_t kPredictedContext = 32768;  // where no context is asked for
constexpr int64_t kNcclBytes = 512LL << 20;   // NCCL's own buffers in a rank: assumed

// ---- what is asked ----

void check(const Config& c, const Machine& m, const Request& r) {
  const int most = m.gpu ? kMostGpus : kMostParts;
  if (m.per_node < 1 || m.per_node > most || m.nodes < 1 || m.nodes > kMostNodes)
    throw UsageError(fmt::format("{} {} in each of {} machines: 1 to {} in 1 to {} are accepted",
                                 m.per_node, m.gpu ? "GPUs" : "NUMA nodes", m.nodes, most,
                                 kMostNodes));
  if (r.concurrency < 0 || r.concurrency > kMostSequences)
    throw UsageError(
        fmt::format("{} sequences at once: 1 to {} are accepted", r.concurrency, kMostSequences));
  if (r.mtp && c.mtp_layers == 0)
    fail("the MTP layer is asked for drafts, and this config has none");
  if (r.context > c.max_positions)
    throw UsageError(fmt::format("a context of {} tokens is asked for: the model's own is {}",
                                 r.context, c.max_positions));
  if (r.context < 0 || r.step_tokens < 0)
    throw UsageError(fmt::format("a context of {} and steps of {} tokens: counts are expected",
                                 r.context, r.step_tokens));
}

std::vector<RankLayout> layouts_of(const Machine& m, const Request& r) {
  const int ranks = m.ranks();
  if (r.tensor || r.data) {
    const int tensor = r.tensor.value_or(ranks / std::max(1, *r.data));
    const int data = r.data.value_or(ranks / std::max(1, tensor));
    const bool fits = tensor >= 1 && data >= 1 && int64_t{tensor} * data == ranks;
    const char* what = m.gpu ? "GPUs" : "NUMA nodes";
    if (!fits && !(r.tensor && r.data))
      fail("{} {} does not divide the {} {} into whole groups",
           r.tensor ? "--tensor-parallel-size" : "--data-parallel-size",
           r.tensor ? *r.tensor : *r.data, ranks, what);
    if (!fits)
      fail(
          "--tensor-parallel-size {} and --data-parallel-size {} are {} ranks, there are {}: their "
          "product has to be the number of {}",
          tensor, data, int64_t{tensor} * data, ranks, what);
    return {{tensor, data, 0}};
  }
  std::vector<RankLayout> all;
  for (int tensor = ranks; tensor >= 1; --tensor)
    if (ranks % tensor == 0) all.push_back({tensor, ranks / tensor, 0});
  return all;
}

std::string name_of(const RankLayout& l) {
  if (l.ranks() == 1) return "one";
  if (l.data == 1) return "tp";
  if (l.tensor == 1) return "dp";
  return fmt::format("tp {} x dp {}", l.tensor, l.data);
}

// ---- memory ----

Numerics numerics_of(const Machine& m, const Request& r) {
  if (r.compute) return r.compute->numerics;
  return m.gpu && m.gpu->has_fp8() ? Numerics::fp8 : Numerics::bf16;
}

WeightStorage storage_of(const Machine& m, const Request& r) {
  if (!m.gpu) return WeightStorage::file;
  return numerics_of(m, r) == Numerics::fp8 ? WeightStorage::gpu_fp8 : WeightStorage::gpu_bf16;
}

// Rows on their way between ranks: sums of a step's tokens; and where experts are spread over
// groups, in the worst case the rows of every group, coming in FP8 with scales and leaving in bf16.
int64_t exchange_bytes(const Config& c, const Machine& m, const RankLayout& l, int64_t tokens) {
  if (l.ranks() == 1) return 0;
  int64_t bytes = 2 * tokens * c.hidden * (m.gpu ? 2 : 4) + (m.gpu ? kNcclBytes : 0);
  if (l.data > 1) bytes += l.data * tokens * (3 * c.hidden + 4 * c.hidden / kFp8Block);
  return bytes;
}

ComputePlan compute_plan(const Machine& m, const Request& r, const RankLayout& l) {
  ComputePlan p;
  p.device = m.gpu ? DeviceKind::cuda : DeviceKind::cpu;
  p.index_budget = default_index_budget(p.device);
  if (r.compute) p = *r.compute;
  p.mtp = r.mtp;
  p.layout = {};  // one rank, with its own config and memory
  p.numerics = numerics_of(m, r);
  p.context = r.context;
  p.step_tokens = r.step_tokens;
  p.sequences = (r.concurrency + l.data - 1) / l.data;
  return p;
}

// As an engine of one rank would divide its memory. Fills in why not where it cannot.
void plan_rank(const Config& c, const Machine& m, const Request& r, LayoutPlan& out) {
  try {
    check_layout(c, out.layout);
    out.weights = rank_volume(c, out.layout, storage_of(m, r));
    EngineOptions e;
    e.compute = compute_plan(m, r, out.layout);
    e.keep_prefixes = true;
    out.exchange = exchange_bytes(c, m, out.layout, r.step_tokens);
    e.weight_bytes = out.weights.total + out.exchange;
    e.available_bytes = m.rank_memory();
    out.memory = plan_engine(config_of_rank(c, out.layout), e);
    out.memory.weights = out.weights.total;
    out.memory.workspace += out.exchange;
  } catch (const Error& e) {
    out.refused = e.what();
    return;
  }
  const int groups = out.layout.data;
  out.cache_tokens = int64_t{out.memory.pages} * kPageRows * groups;
  std::vector<int64_t> contexts = {8192, 32768, 131072, c.max_positions};
  if (r.context > 0) contexts.push_back(r.context);
  std::sort(contexts.begin(), contexts.end());
  contexts.erase(std::unique(contexts.begin(), contexts.end()), contexts.end());
  for (int64_t context : contexts)
    if (context <= c.max_positions)
      out.rooms.push_back({context, out.memory.pages / pages_for(context) * groups});
}

// ---- speed ----

Speed speed(const Machine& m, double us, double tokens) {
  Speed s;
  s.ms = us / 1e3;
  s.tokens_per_second = us > 0 ? tokens / us * 1e6 : 0;
  const double hourly = m.dollars_per_hour * (m.gpu ? m.ranks() : m.nodes);
  if (us > 0) s.dollars_per_million = hourly / 3600 / s.tokens_per_second * 1e6;
  return s;
}

// `times`: of either device.
template <class Times>
void predict_with(const Times& times, const Machine& m, const Request& r, LayoutPlan& out) {
  const int groups = out.layout.data;
  const int each = (out.sequences + groups - 1) / groups;
  out.one = speed(m, times.decode_step(1, out.context), 1);
  out.many = speed(m, times.decode_step(each, out.context), out.sequences);
  out.prompt =
      speed(m, times.prompt(out.context, r.step_tokens), static_cast<double>(groups * out.context));
}

void predict(const Config& c, const Machine& m, const Request& r, LayoutPlan& out) {
  out.context = r.context > 0 ? r.context : std::min(kPredictedContext, out.memory.context);
  const int64_t room = out.memory.pages / pages_for(out.context) * out.layout.data;
  out.sequences = static_cast<int>(std::min<int64_t>(r.concurrency, room));
  if (m.gpu)
    predict_with(StepTimes(c, out.layout, *m.gpu, numerics_of(m, r), m.per_node), m, r, out);
  else
    predict_with(CpuTimes(c, out.layout, out.weights, m.read_rate, m.product_rate), m, r, out);
}

// ---- choice ----

void recommend(Plan& plan) {
  const bool single = plan.request.concurrency == 1;
  double best = -1;
  for (size_t i = 0; i < plan.layouts.size(); ++i) {
    const LayoutPlan& l = plan.layouts[i];
    if (!l.fits()) continue;
    const double rate = single ? l.one.tokens_per_second : l.many.tokens_per_second;
    if (rate <= best) continue;
    best = rate;
    plan.recommended = static_cast<int>(i);
  }
  const LayoutPlan* l = plan.best();
  if (!l) return;
  if (best <= 0)
    plan.why = "it fits; the rates of this machine's memory are not known";
  else if (plan.layouts.size() == 1)
    plan.why = "the layout that was asked for, or the only one";
  else
    plan.why = single ? "the fastest for one sequence"
                      : fmt::format("the most tokens a second for {} sequences", l->sequences);
}

bool any_fits(const Config& c, Machine m, Request r) {
  r.tensor.reset();
  r.data.reset();
  r.concurrency = std::max(1, r.concurrency);
  for (const RankLayout& layout : layouts_of(m, r)) {
    LayoutPlan l;
    l.layout = layout;
    plan_rank(c, m, r, l);
    if (l.fits()) return true;
  }
  return false;
}

// The smallest number of the same GPUs, and other GPUs in the same number.
std::vector<std::string> what_would_fit(const Config& c, const Machine& m, const Request& r) {
  std::vector<std::string> found;
  if (!m.gpu) return found;
  Machine other = m;
  other.memory = 0;
  for (int ranks = m.ranks() + 1; ranks <= 16 * m.ranks() && found.empty(); ++ranks) {
    if ((ranks & (ranks - 1)) != 0) continue;
    other.per_node = std::min(ranks, std::max(8, m.per_node));
    other.nodes = ranks / other.per_node;
    if (!m.gpu->has_kernels || !any_fits(c, other, r)) continue;
    found.push_back(fmt::format("{} x {}", ranks, m.gpu->title));
    if (other.nodes > 1) found.back() += fmt::format(" in {} machines", other.nodes);
  }
  other = m;
  other.memory = 0;
  for (const GpuModel& gpu : gpu_models()) {
    other.gpu = &gpu;
    if (gpu.has_kernels && gpu.name != m.gpu->name && any_fits(c, other, r))
      found.push_back(fmt::format("{} x {}", m.ranks(), gpu.title));
  }
  return found;
}

// ---- command lines ----

bool can_convert(const Config& c, int ranks) {
  for (int64_t n : {int64_t{c.vocab}, int64_t{c.heads}, int64_t{c.intermediate}, int64_t{c.experts},
                    int64_t{c.moe_intermediate} * c.shared_experts})
    if (n % ranks != 0) return false;
  return true;
}

std::string shell_word(const std::string& path) {
  const bool plain = std::all_of(path.begin(), path.end(), [](unsigned char ch) {
    return std::isalnum(ch) ||
           std::string_view("/._-+=:@%,").find(static_cast<char>(ch)) != std::string_view::npos;
  });
  if (plain && !path.empty()) return path;
  std::string out = "'";
  for (char ch : path) out += ch == '\'' ? std::string("'\\''") : std::string(1, ch);
  return out + "'";
}

std::vector<std::string> commands_of(const Config& c, const Machine& m, const Request& r,
                                     const LayoutPlan& l) {
  std::vector<std::string> lines;
  const int ranks = m.ranks();
  std::string folder = r.folder.empty() ? "DeepSeek-V3.2-Exp" : r.folder;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  if (ranks > 1 && r.converted_ranks == 0 && can_convert(c, ranks)) {
    const std::string save = folder + fmt::format("-mp{}", ranks);
    lines.push_back(
        fmt::format("fathom convert --hf-ckpt-path {} --save-path {} --n-experts {} "
                    "--model-parallel {}",
                    shell_word(folder), shell_word(save), c.experts, ranks));
    folder = save;
  }
  std::string serve;
  if (m.nodes > 1)
    serve = fmt::format("mpirun -np {} --map-by ppr:1:node --hostfile HOSTS ", m.nodes);
  serve += "fathom serve --ckpt-path " + shell_word(folder);
  if (!r.config_file.empty()) serve += " --config " + shell_word(r.config_file);
  if (!m.gpu) serve += " --device cpu";
  if (l.layout.tensor > 1) serve += fmt::format(" --tensor-parallel-size {}", l.layout.tensor);
  if (l.layout.data > 1) serve += fmt::format(" --data-parallel-size {}", l.layout.data);
  serve += fmt::format(" --context {}", l.memory.context);
  lines.push_back(serve);
  return lines;
}

// Layouts that this build computes. Whoever makes it compute more changes this.
bool built(const Machine& m) { return m.nodes == 1 || !m.gpu; }

std::vector<std::string> notes_of(const Config& c, const Machine& m, const Plan& plan) {
  std::vector<std::string> notes;
  if (const LayoutPlan* best = plan.best(); best && !built(m))
    notes.push_back(
        "on several machines this build computes on their processors: the plan is ahead of it");
  if (const int ranks = plan.request.converted_ranks; ranks > 1 && ranks != m.ranks())
    notes.push_back(fmt::format(
        "{} is converted for {} ranks: on {} some of its tensors are joined in memory; converted "
        "with --model-parallel {} they are used where they lie",
        plan.request.folder, ranks, m.ranks(), m.ranks()));
  if (m.gpu && !m.gpu->has_kernels)
    notes.push_back(fmt::format(
        "{}: fathom's kernels are built for compute capability 9.0 (H100, H200) and refuse it; "
        "figures are what {} would need{}",
        m.gpu->title, m.gpu->has_fp8() ? "it" : "bf16",
        m.gpu->has_fp8() ? ""
                         : ": without FP8 in the tensor cores weights are bf16, twice as large"));
  if (plan.mtp > 0 && !plan.request.mtp)
    notes.push_back(fmt::format("the MTP layer ({}) is not loaded", bytes_text(plan.mtp)));
  if (!c.has_indexer())
    notes.push_back("the model has no indexer: attention is dense, and slows with the context");
  if (m.gpu && m.nodes > 1)
    notes.push_back("the network between machines is assumed, not measured: 40 GB/s a GPU, 30 us");
  if (m.gpu && m.gpu->name != "h200" && m.gpu->name != "h100")
    notes.push_back("speeds are those of an H200, scaled by the rates that the maker states");
  return notes;
}

}  // namespace

Plan make_plan(const Config& whole, const Machine& machine, const Request& asked) {
  check(whole, machine, asked);
  Plan plan;
  plan.machine = machine;
  plan.request = asked;
  Request& r = plan.request;
  const DeviceKind device = machine.gpu ? DeviceKind::cuda : DeviceKind::cpu;
  if (r.step_tokens == 0) r.step_tokens = default_step_tokens(device);
  if (r.concurrency == 0)
    r.concurrency = std::min(kMostSequences, kRankSequences * machine.ranks());
  plan.checkpoint = checkpoint_bytes(whole);
  plan.mtp = mtp_bytes(whole);
  Config config = whole;
  if (!r.mtp) config.mtp_layers = 0;  // plain decoding has no use for it
  for (const RankLayout& layout : layouts_of(machine, r)) {
    LayoutPlan& l = plan.layouts.emplace_back();
    l.layout = layout;
    l.name = name_of(layout);
    plan_rank(config, machine, r, l);
    if (l.fits()) predict(config, machine, r, l);
    if (machine.gpu && !machine.gpu->has_kernels && l.fits())
      l.refused = fmt::format("fathom has no kernels for {}", machine.gpu->title);
  }
  // A layout that was asked for and does not divide is no plan.
  if (asked.tensor || asked.data) check_layout(config, plan.layouts.front().layout);
  recommend(plan);
  plan.notes = notes_of(whole, machine, plan);
  if (const LayoutPlan* best = plan.best()) {
    plan.commands = commands_of(config, machine, r, *best);
  } else {
    plan.why = plan.layouts.front().refused;
    plan.would_fit = what_would_fit(config, machine, r);
  }
  return plan;
}

}  // namespace fathom::plan
