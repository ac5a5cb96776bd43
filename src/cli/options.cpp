#include "cli/options.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/processors.h"
#include "cli/command.h"
#include "cli/processes.h"
#include "kernels/cpu_ops.h"
#include "kernels/gpu.h"
#include "model/checkpoint_files.h"
#include "runtime/device.h"

namespace fathom::cli {
namespace {

// The number of tokens in vLLM's JSON. Throws UsageError for what means something else.
int speculative_tokens_of(const std::string& text) {
  const auto wrong = [&](const std::string& why) {
    return UsageError(
        fmt::format("--speculative-config: {}: {{\"method\": \"mtp\", "
                    "\"num_speculative_tokens\": 1 to {}}} is accepted",
                    why, kMaxSpeculativeTokens));
  };
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) throw wrong("no JSON object");
  int tokens = 1;
  for (const auto& [key, value] : json.items()) {
    if (key == "method") {
      // Former versions of vLLM name the model in front.
      if (value != "mtp" && value != "deepseek_mtp")
        throw wrong(fmt::format("method is {}", value.dump()));
    } else if (key == "num_speculative_tokens") {
      if (!value.is_number_integer() || value < 0 || value > kMaxSpeculativeTokens)
        throw wrong(fmt::format("num_speculative_tokens is {}", value.dump()));
      tokens = value.get<int>();
    } else {
      throw wrong(fmt::format("{} is unknown", key));
    }
  }
  return tokens;
}

// An option under several names, each an option of its own, so that a message about a value speaks
// of the name that was used. The help lists the other names in a group of their own: CLI11 leaves a
// hidden option's name out of its messages.
template <class T>
void add_named(CLI::App& command, const std::vector<std::string>& names, T& value,
               const std::string& description, const CLI::Validator& check) {
  CLI::Option* first = command.add_option(names.front(), value, description)->check(check);
  for (size_t i = 1; i < names.size(); ++i)
    command.add_option(names[i], value, "the same as " + names.front())
        ->check(check)
        ->group("Other names")
        ->excludes(first);
}

}  // namespace

CLI::Validator number_from(double low, double high) {
  return CLI::Validator(
      [low, high](const std::string& text) {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && value >= low && value <= high)
          return std::string();
        return fmt::format("Value {} not in range {:g} to {:g}", text, low, high);
      },
      fmt::format("FLOAT in [{:g} - {:g}]", low, high));
}

void ComputeOptions::add_device_to(CLI::App& command) {
  command
      .add_option("--device", device,
                  "cpu, cuda (H100, H200), or auto: the GPU where there is one that can")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
}

void ComputeOptions::add_to(CLI::App& command) {
  add_device_to(command);
  command
      .add_option("--numerics", numerics,
                  "exact (float32, CPU), bf16, or fp8 (the reference's rounding points) "
                  "(default: bf16 on a CPU, fp8 on a GPU)")
      ->check(CLI::IsMember({"exact", "bf16", "fp8"}));
  command.add_option("--kv", kv, "cache rows: f32, bf16 or fp8 (default: follows the numerics)")
      ->check(CLI::IsMember({"f32", "bf16", "fp8"}));
  command.add_option("--attention", attention, "sparse (the model) or dense (for comparison)")
      ->check(CLI::IsMember({"sparse", "dense"}))
      ->capture_default_str();
  std::vector<std::string> names;
  for (const CpuKernels& row : cpu_kernels()) names.emplace_back(row.name);
  command.add_option("--kernels", kernels, "force an implementation (default: the best usable)")
      ->check(CLI::IsMember(names));
  command.add_option("--threads", threads, kThreadsHelp)
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command.add_flag("--batch-invariant", batch_invariant,
                   "one form of attention everywhere: decode equals prefill bit for bit");
}

void ComputeOptions::add_step_tokens_to(CLI::App& command) {
  add_named(
      command, {"--step-tokens", "--max-num-batched-tokens", "--chunk"}, step_tokens,
      "tokens of one step; longer prompts go in chunks (default: 512 on a CPU, 4096 on a GPU)",
      CLI::Range(1, 1 << 16));
}

void ComputeOptions::add_context_to(CLI::App& command) {
  add_named(command, {"--context", "--max-model-len", "--max-context"}, context,
            "tokens of prompt and answer together (default: the model's, or what fits)",
            CLI::Range(int64_t{2}, int64_t{1} << 40));
}

void ComputeOptions::add_sequences_to(CLI::App& command) {
  add_named(command, {"--sequences", "--max-num-seqs"}, sequences,
            "requests computed at once (default: 16 on a CPU, 64 on a GPU)", CLI::Range(1, 65536));
}

void ComputeOptions::add_index_budget_to(CLI::App& command) {
  command
      .add_option("--index-budget", index_budget_mib,
                  "MiB of index scores held at once (default: 64 on a CPU, 512 on a GPU)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
}

void ComputeOptions::add_speculation_to(CLI::App& command) {
  CLI::Option* tokens =
      command
          .add_option(
              "--speculative-tokens", speculative_tokens,
              "tokens that the MTP block drafts ahead in a step, 0 for none; the answers "
              "stay the same (default: 2 on a GPU where the checkpoint has the block, else 0)")
          ->check(CLI::Range(0, kMaxSpeculativeTokens));
  command
      .add_option_function<std::string>(
          "--speculative-config",
          [this](const std::string& text) { speculative_tokens = speculative_tokens_of(text); },
          "the same as vLLM has it: '{\"method\": \"mtp\", \"num_speculative_tokens\": 1}'")
      ->group("Other names")
      ->excludes(tokens);
  command.add_flag("--speculative-always", speculate_always,
                   "draft as many tokens in every step, also where it does not pay (for "
                   "measurements)");
}

void ComputeOptions::add_ranks_to(CLI::App& command) {
  command
      .add_option("--tensor-parallel-size", tensor_parallel,
                  "ranks that compute together, each with a part of the weights: GPUs, or parts of "
                  "the processors, one a NUMA node where there are several (default: 1)")
      ->check(CLI::Range(1, 1024));
  command
      .add_option(
          "--exchange", exchange,
          "between GPUs: peer (through each other's memory, in one process), nccl, or auto: "
          "peer within a process, nccl between processes")
      ->check(CLI::IsMember({"auto", "peer", "nccl"}))
      ->capture_default_str();
  command
      .add_option("--exchange-timeout", exchange_timeout,
                  "with mpirun: seconds that another process may be silent before the run ends")
      ->check(number_from(0.1, 3600.0))
      ->capture_default_str();
}

void ComputeOptions::add_groups_to(CLI::App& command) {
  command
      .add_option("--data-parallel-size", data_parallel,
                  "groups of ranks, each with requests and a cache of its own; routed experts are "
                  "spread over all ranks (default: 1)")
      ->check(CLI::Range(1, 1024));
}

DeviceKind ComputeOptions::device_value() const {
  if (!found_) {
    // Naming kernels of the CPU, or float32 rows, is asking for the CPU.
    const bool cpu_only = numerics == "exact" || kv == "f32" || !kernels.empty();
    if (cpu_only && device == "cuda")
      throw UsageError(fmt::format("--device cuda: {} for the CPU only",
                                   numerics == "exact" ? "--numerics exact is"
                                   : kv == "f32"       ? "--kv f32 is"
                                                       : "--kernels is"));
    const int processes = process_link() ? process_link()->processes() : 1;
    // What does not divide is said by spread_over_processes().
    RankLayout layout{std::max(1, tensor_parallel), std::max(1, data_parallel), 0};
    layout.processes = std::clamp(processes, 1, layout.ranks());
    const DeviceChoice choice = choose_device(cpu_only ? "cpu" : device, layout);
    if (!choice.note.empty()) fmt::print(stderr, "note: {}\n", choice.note);
    found_ = choice.device;
  }
  return *found_;
}

// The release takes a GPU for each file of a converted folder. Any number of ranks can read it
// (docs/parallel.md), so fewer GPUs do, too, if they hold the model, and processors do as one rank.
int ComputeOptions::ranks_of(const std::string& folder) const {
  if (ranks_) return *ranks_;
  ranks_ = 1;
  const int converted = converted_ranks(folder);
  if (converted < 2) return *ranks_;
  std::string here = "processors";
  if (device_value() == DeviceKind::cuda) {
    // Of several machines each is taken to have as many as this one.
    const int processes = process_link() ? process_link()->processes() : 1;
    int each = std::min(converted / processes, find_gpu().count);
    while (each > 1 && (converted % (each * processes) != 0 || !find_gpu(each).usable)) --each;
    ranks_ = std::max(each, 1) * processes;
    if (*ranks_ == converted) return *ranks_;
    here = fmt::format("{} usable GPU{}", *ranks_, *ranks_ == 1 ? "" : "s");
  }
  fmt::print(stderr, "note: {} is converted for {} ranks: here {} it on {}\n", folder, converted,
             *ranks_ == 1 ? "one rank computes" : fmt::format("{} ranks compute", *ranks_), here);
  return *ranks_;
}

ComputePlan ComputeOptions::plan(const std::string& folder) const {
  ComputePlan p;
  p.device = device_value();
  const bool gpu = p.device == DeviceKind::cuda;
  p.numerics = numerics == "exact"        ? Numerics::exact
               : numerics == "bf16"       ? Numerics::bf16
               : numerics == "fp8" || gpu ? Numerics::fp8
                                          : Numerics::bf16;
  // If it is not given it follows the numerics, also in commands that run several.
  if (!kv.empty())
    p.cache_format = kv == "f32" ? KvFormat::f32 : kv == "bf16" ? KvFormat::bf16 : KvFormat::fp8;
  p.attention = attention == "dense" ? AttentionMode::dense : AttentionMode::sparse;
  if (!gpu) p.kernels = pick_cpu_kernels(kernels).name;
  p.threads = computing_threads(threads);
  p.batch_invariant = batch_invariant;
  p.layout.tensor = tensor_parallel > 0                   ? tensor_parallel
                    : data_parallel > 0 || folder.empty() ? 1
                                                          : ranks_of(folder);
  p.layout.data = std::max(1, data_parallel);
  p.exchange = exchange == "peer"   ? GpuExchange::peer
               : exchange == "nccl" ? GpuExchange::nccl
                                    : GpuExchange::automatic;
  spread_over_processes(p, exchange_timeout);
  check_exchange(p);
  p.context = context;
  p.step_tokens = step_tokens > 0 ? step_tokens : default_step_tokens(p.device);
  p.sequences = sequences > 0 ? sequences : gpu ? 64 : 16;
  p.speculative_tokens = speculative_tokens.value_or(0);
  p.mtp = p.speculative_tokens > 0;
  p.index_budget = index_budget_mib > 0 ? index_budget_mib << 20 : default_index_budget(p.device);
  return p;
}

std::vector<int32_t> parse_ids(const std::string& text, const std::string& origin) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  for (;;) {
    while (at < end && space(*at)) ++at;
    if (at == end) return ids;
    int32_t id = 0;
    auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (next < end && !space(*next))) {
      const char* stop = at;
      while (stop < end && !space(*stop) && stop - at < 40) ++stop;
      fail("{}: expected token ids with blanks between, found \"{}\"", origin,
           std::string(at, stop));
    }
    ids.push_back(id);
    at = next;
  }
}

namespace {

// Read once: what is computed with and what is said of it are the same.
const Processors& processors_here() {
  static const Processors found = find_processors();
  return found;
}

}  // namespace

void say_threads(int asked) {
  if (asked > 0) return;
  if (const std::string why = processors_here().describe(); !why.empty())
    fmt::print(stderr, "note: {}\n", why);
}

int computing_threads(int asked) {
  const Processors& processors = processors_here();
  return asked > 0 ? std::min(asked, processors.at_once()) : processors.threads();
}

void say_computing_threads(int asked) {
  say_threads(asked);
  if (const int threads = computing_threads(asked); threads < asked)
    fmt::print(stderr, "note: {} of {} threads: no more can run at once here\n", threads, asked);
}

std::vector<int32_t> encode_text(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> ids = tokenizer.encode(text);
  const std::vector<int32_t> markers = tokenizer.encode("");
  if (!markers.empty() && !text.empty() && ids == tokenizer.encode(text, false))
    fmt::print(stderr, "note: the text begins with {} itself: it is not put in front again\n",
               tokenizer.decode(markers));
  return ids;
}

void check_ids(std::span<const int32_t> ids, int vocab) {
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= vocab)
      fail("token {} is id {}: the vocabulary has ids 0 to {}", i, ids[i], vocab - 1);
}

}  // namespace fathom::cli
