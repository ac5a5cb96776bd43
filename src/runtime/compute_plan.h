// ComputePlan: everything that decides how a model is computed and how much room it is given. The
// command line is turned into one in a single place (cli/options.h); runtime/model_instance.h
// builds what computes from it. A plain value: whoever wants another plan changes a copy.
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

// Tokens of a step that keep the device busy, and bytes of index scores held at once.
constexpr int default_step_tokens(DeviceKind d) { return d == DeviceKind::cpu ? 512 : 4096; }
constexpr int64_t default_index_budget(DeviceKind d) {
  return int64_t{d == DeviceKind::cpu ? 64 : 512} << 20;
}

struct ComputePlan {
  // How. The weights must lie on the device (DeviceWeights).
  DeviceKind device = DeviceKind::cpu;
  Numerics numerics = Numerics::bf16;
  std::optional<KvFormat> cache_format;  // of latent rows; none: follows the numerics
  AttentionMode attention = AttentionMode::sparse;
  std::string kernels;  // of the CPU; empty: the best usable
  int threads = 0;      // of all ranks of a process together; 0: every processor
  // One form of attention everywhere, and a token's bits do not depend on what else is in its step.
  bool batch_invariant = false;
  // On a GPU: tensors in memory that the host reads too, and every op finished before it returns.
  // For observers, who look between the ops. Slow.
  bool observed = false;
  bool mtp = false;  // the cache has a layer for the MTP block, and the block may be run
  // Drafts of a sequence that the engine verifies in one step, 0 to kMaxSpeculativeTokens. Any need
  // `mtp`.
  int speculative_tokens = 0;

  // How much.
  int step_tokens = 512;              // of one step: longer prompts are computed in chunks
  int64_t context = 0;                // tokens of one sequence; 0: the model's, or what fits
  int sequences = 8;                  // computed at once
  int64_t index_budget = 64LL << 20;  // bytes of index scores held at once
  int cache_pages = 0;                // of all sequences together, kPageRows tokens each
  int logit_rows = 0;                 // of one step; 0: one a sequence

  RankLayout layout;            // how the model is spread over ranks, and which of them this is
  ProcessLink* link = nullptr;  // to the other processes of the layout, where there are any

  KvFormat latent_format() const { return cache_format.value_or(default_kv_format(numerics)); }
};

// Throws Error for a size below 1, and for ranks that the model cannot be spread over.
void check_plan(const Config& whole, const ComputePlan& plan);

// Threads of one rank of a CPU: its part of the plan's.
int threads_of_rank(const ComputePlan& plan);

// Whether drafts are made where nobody says: where they were measured to pay (docs/speculation.md),
// and the block's own depth of one token. Needs a checkpoint with an MTP block.
bool drafts_by_default(const ComputePlan& plan);
inline constexpr int kDefaultSpeculativeTokens = 1;

// One line for the user, beside what the device says of itself (Ops::describe).
std::string describe(const Config& config, const ComputePlan& plan);

// Entries that one step may have for sequences: each of them may come twice, with the end of its
// prompt and with decodes computed again, and padding once more.
constexpr int step_sequences(int sequences) { return 2 * sequences + 1; }

// What parts of the model are told of a plan. `config` is the rank's (config_of_rank).
ForwardOptions forward_options(const ComputePlan& plan);
Workload workload_of(const Config& config, const ComputePlan& plan);
KvShape kv_shape(const Config& config, const ComputePlan& plan);
FormPolicy form_policy(const Config& config, const ComputePlan& plan);

}  // namespace fathom
