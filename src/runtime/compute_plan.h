// ComputePlan: everything that decides how a model is computed, and the sizes that its memory is
// planned for. cli/options.h makes one from the command line; ModelInstance is built from one. It
// is a plain value: to get another plan, change a copy.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cache/kv_pool.h"
#include "kernels/ops.h"
#include "model/attention_form.h"
#include "model/config.h"
#include "model/forward.h"
#include "model/rank_layout.h"
#include "numerics/modes.h"
#include "runtime/speculation.h"

namespace fathom {

class ProcessLink;

enum class DeviceKind : uint8_t { cpu, cuda };

constexpr std::string_view name_of(DeviceKind d) { return d == DeviceKind::cpu ? "cpu" : "cuda"; }

// Default tokens of a step, enough to keep the device busy, and bytes of index scores held at once.
constexpr int default_step_tokens(DeviceKind d) { return d == DeviceKind::cpu ? 512 : 4096; }
constexpr int64_t default_index_budget(DeviceKind d) {
  return int64_t{d == DeviceKind::cpu ? 64 : 512} << 20;
}

// How the GPUs of a group exchange: through each other's memory, which one process can reach, or by
// NCCL. Automatic: within a process through memory, between processes by NCCL.
enum class GpuExchange : uint8_t { automatic, peer, nccl };

constexpr std::string_view name_of(GpuExchange e) {
  return e == GpuExchange::peer ? "peer" : e == GpuExchange::nccl ? "nccl" : "auto";
}

struct ComputePlan {
  // How the model is computed. The weights must lie on the device (DeviceWeights).
  DeviceKind device = DeviceKind::cpu;
  Numerics numerics = Numerics::bf16;
  std::optional<KvFormat> cache_format;  // of latent rows; none: follows the numerics
  AttentionMode attention = AttentionMode::sparse;
  std::string kernels;  // of the CPU; empty: the best usable
  int threads = 0;      // of all ranks of a process together; 0: every processor
  // All tokens use the absorbed form of attention, and a token's bits do not depend on what else is
  // in its step.
  bool batch_invariant = false;
  // On a GPU: tensors lie in memory that the host can read, and every op is finished before it
  // returns. For observers, which look between the ops. Slow.
  bool observed = false;
  bool mtp = false;  // the cache has a layer for the MTP block, and the block may be run
  // Drafts of a sequence that the engine verifies in one step, 0 to kMaxSpeculativeTokens. Above 0
  // it needs `mtp`.
  int speculative_tokens = 0;

  // Sizes.
  int step_tokens = 512;              // of one step: longer prompts are computed in chunks
  int64_t context = 0;                // tokens of one sequence; 0: the model's, or what fits
  int sequences = 8;                  // computed at once
  int64_t index_budget = 64LL << 20;  // bytes of index scores held at once
  int cache_pages = 0;                // of all sequences together, kPageRows tokens each
  int logit_rows = 0;                 // of one step; 0: one per sequence

  GpuExchange exchange = GpuExchange::automatic;
  RankLayout layout;            // how the model is spread over ranks, and which of them this is
  ProcessLink* link = nullptr;  // to the other processes of the layout; null if there are none

  KvFormat latent_format() const { return cache_format.value_or(default_kv_format(numerics)); }
};

// Throws Error if the exchange that the plan asks for cannot be had.
void check_exchange(const ComputePlan& plan);
// Throws Error if a size is below 1, or if the model cannot be divided over the plan's ranks.
void check_plan(const Config& whole, const ComputePlan& plan);

// Returns the threads of one rank of a CPU: its part of the plan's threads.
int threads_of_rank(const ComputePlan& plan);

// Whether drafts are made by default: only for plans with which they were measured to pay
// (docs/speculation.md). Needs a checkpoint with an MTP block. The default number is the least that
// comes within the noise of the best there; the engine makes fewer where they do not pay.
bool drafts_by_default(const ComputePlan& plan);
inline constexpr int kDefaultSpeculativeTokens = 2;

// Returns one line for the user, printed after that of the device (Ops::describe).
std::string describe(const Config& config, const ComputePlan& plan);

// Entries for sequences that one step may need. A sequence may have two, the end of its prompt and
// decodes that are computed again; padding has one more.
constexpr int step_sequences(int sequences) { return 2 * sequences + 1; }

// The plan's options for the parts of a model. `config` is the rank's (config_of_rank).
ForwardOptions forward_options(const ComputePlan& plan);
Workload workload_of(const Config& config, const ComputePlan& plan);
KvShape kv_shape(const Config& config, const ComputePlan& plan);
FormPolicy form_policy(const Config& config, const ComputePlan& plan);

}  // namespace fathom
