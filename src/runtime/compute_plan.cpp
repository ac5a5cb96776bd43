#include "runtime/compute_plan.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "base/units.h"

namespace fathom {

void check_exchange(const ComputePlan& p) {
  const RankLayout& l = p.layout;
  if (p.exchange == GpuExchange::automatic) return;
  const std::string_view name = name_of(p.exchange);
  if (p.device == DeviceKind::cpu)
    fail("an exchange by {} is asked for: that is between GPUs, and processors compute here", name);
  if (p.exchange == GpuExchange::peer && l.processes > 1)
    fail("an exchange through GPUs' memory is asked for: {} processes reach only their own",
         l.processes);
}

void check_plan(const Config& whole, const ComputePlan& p) {
  if (p.sequences < 1) fail("{} sequences at once: at least 1 is needed", p.sequences);
  if (p.step_tokens < 1) fail("{} tokens a step: at least 1 is needed", p.step_tokens);
  if (p.speculative_tokens < 0 || p.speculative_tokens > kMaxSpeculativeTokens)
    fail("speculative tokens: {} asked for, 0 to {} are possible", p.speculative_tokens,
         kMaxSpeculativeTokens);
  if (p.speculative_tokens > 0 && whole.mtp_layers == 0)
    fail("speculative tokens: {} asked for, and this checkpoint has no MTP block to draft them",
         p.speculative_tokens);
  FATHOM_CHECK(p.speculative_tokens == 0 || p.mtp, "{} drafts a step, and no MTP block is run",
               p.speculative_tokens);
  if (p.speculative_tokens > 0 && p.layout.data > 1)
    fail("speculative tokens: {} asked for in {} groups of ranks, and the MTP block runs in one",
         p.speculative_tokens, p.layout.data);
  check_exchange(p);
  if (p.context < 0)
    throw UsageError(fmt::format("a context of {} tokens: at least 1 is needed", p.context));
  check_layout(whole, p.layout);
}

int threads_of_rank(const ComputePlan& p) {
  const int threads = p.threads > 0 ? p.threads : usable_processors();
  return std::max<int>(
      1, static_cast<int>(part_of(threads, p.layout.place_here(), p.layout.ranks_here()).size()));
}

bool drafts_by_default(const ComputePlan& p) {
  return p.device == DeviceKind::cuda && p.layout.data == 1 && p.layout.processes == 1;
}

std::string describe(const Config& config, const ComputePlan& p) {
  const AttentionMode attention = config.has_indexer() ? p.attention : AttentionMode::dense;
  const std::string drafts = p.speculative_tokens == 0 ? ""
                             : p.speculative_tokens == 1
                                 ? ", 1 draft a step"
                                 : fmt::format(", {} drafts a step", p.speculative_tokens);
  return fmt::format(
      "{} numerics, {} cache, {} attention{}; steps of {} tokens, context {} tokens, {} "
      "sequence{}, "
      "{} of index scores{}",
      name_of(p.numerics), name_of(p.latent_format()), name_of(attention),
      p.batch_invariant ? " (batch-invariant)" : "", p.step_tokens, p.context, p.sequences,
      p.sequences == 1 ? "" : "s", bytes_text(p.index_budget), drafts);
}

ForwardOptions forward_options(const ComputePlan& p) {
  ForwardOptions f;
  f.numerics = p.numerics;
  f.attention = p.attention;
  f.step_tokens = p.step_tokens;
  f.context = p.context;
  f.groups = p.layout.data;
  f.group_ranks = p.layout.tensor;
  f.mtp = p.mtp;
  return f;
}

Workload workload_of(const Config& c, const ComputePlan& p) {
  Workload w;
  w.step_tokens = p.step_tokens;
  w.context = p.context;
  w.sequences = step_sequences(p.sequences);
  w.hidden = c.hidden;
  w.max_intermediate =
      std::max({c.intermediate, c.moe_intermediate * std::max(1, c.shared_experts)});
  w.expert_intermediate = c.moe_intermediate;
  w.heads = c.heads;
  w.nope = c.nope;
  w.rope = c.rope;
  w.value = c.value;
  w.latent = c.latent;
  w.q_rank = c.q_rank;
  w.index_heads = c.index_heads;
  w.index_dim = c.index_dim;
  w.index_topk = c.index_topk;
  w.experts = c.experts;
  w.experts_per_token = c.experts_per_token;
  w.ranks = p.layout.tensor;
  w.groups = p.layout.data;
  if (p.layout.ranks() > 1 && !experts_by_columns(c, p.layout)) {
    const PartRange own = part_of(c.experts, p.layout.rank, p.layout.ranks());
    w.first_expert = static_cast<int>(own.begin);
    w.own_experts = static_cast<int>(own.size());
  }
  w.vocab = c.vocab;
  w.index_budget = p.index_budget;
  w.ue8m0 = c.ue8m0;
  w.batch_invariant = p.batch_invariant;
  return w;
}

KvShape kv_shape(const Config& config, const ComputePlan& p) {
  return kv_shape(config, p.numerics, p.cache_format, p.mtp);
}

FormPolicy form_policy(const Config& config, const ComputePlan& p) {
  return form_policy(config, p.attention, p.numerics, p.batch_invariant);
}

}  // namespace fathom
