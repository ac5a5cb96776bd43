#include "runtime/memory_plan.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/units.h"

namespace fathom {
MemoryPlan plan_memory(const MemoryNeeds& n, int64_t available) {
  if (n.context > n.max_positions)
    throw UsageError(fmt::format("a context of {} tokens is asked for: the model's own is {}",
                                 n.context, n.max_positions));
  // The rest is left to others: the page cache of mapped weights, the program itself, other
  // programs.
  const int64_t usable =
      available - static_cast<int64_t>(static_cast<double>(available) * n.keep_free);
  const int64_t left = usable - n.weights - n.workspace;
  const int64_t page_bytes = n.cache_copies * n.cache.bytes_per_page();
  const int64_t fitting = std::max<int64_t>(0, left) / page_bytes;  // pages
  auto refuse = [&](int64_t tokens) {
    int64_t cache = pages_for(tokens) * page_bytes;
    fail(
        "not enough memory: weights {}, workspace {} and a cache of {} tokens in {} ({}) need {}, "
        "{} of {} available may be used; {}",
        bytes_text(n.weights), bytes_text(n.workspace), tokens, name_of(n.cache.latent_format),
        bytes_text(cache), bytes_text(n.weights + n.workspace + cache), bytes_text(usable),
        bytes_text(available),
        fitting > 0 ? fmt::format("{} tokens would fit", fitting * kPageRows)
                    : std::string("not even one page of cache would fit; --step-tokens and "
                                  "--index-budget make the workspace smaller"));
  };

  MemoryPlan plan;
  plan.context = n.context > 0 ? n.context : std::min(n.max_positions, fitting * kPageRows);
  const int64_t least = pages_for(plan.context);  // one sequence alone must always fit
  if (plan.context < 1 || least > fitting) refuse(std::max<int64_t>(1, plan.context));
  const int64_t all = least * n.sequences;
  const int64_t share =
      std::max(least, static_cast<int64_t>(static_cast<double>(fitting) * n.cache_share));
  int64_t pages = n.fill ? share : std::min(all, share);
  if (n.cache_tokens > 0) {
    pages = std::max(least, pages_for(n.cache_tokens));
    if (pages > fitting) refuse(n.cache_tokens);
  }
  // Page numbers are 32 bits wide; offsets into the cache are not.
  plan.pages = static_cast<int>(std::min<int64_t>(pages, std::numeric_limits<int32_t>::max()));
  plan.sequences = n.sequences;
  plan.weights = n.weights;
  plan.workspace = n.workspace;
  plan.cache = plan.pages * page_bytes;
  plan.available = available;
  plan.total = plan.weights + plan.workspace + plan.cache;
  return plan;
}

std::string MemoryPlan::describe() const {
  return fmt::format("memory: weights {}, cache {} ({} tokens), workspace {}, left over {} of {}",
                     bytes_text(weights), bytes_text(cache), int64_t{pages} * kPageRows,
                     bytes_text(workspace), bytes_text(available - total), bytes_text(available));
}

std::string MemoryPlan::describe_load() const {
  const int64_t tokens = int64_t{pages} * kPageRows;
  const int64_t full = pages / pages_for(context);
  std::string text = fmt::format("{} tokens of cache: {} request{} at once", tokens, sequences,
                                 sequences == 1 ? "" : "s");
  if (full >= sequences) return text + fmt::format(" of up to {} tokens each", context);
  return text + fmt::format(" of {} tokens each, or {} of the longest, {} tokens",
                            pages / sequences * kPageRows, full, context);
}

int64_t workspace_bytes(const Config& c, int step_tokens, int sequences, int64_t index_budget) {
  // Activations of the forward pass in float32, twice: once its own, once what kernels repack. The
  // experts' intermediate rows are per (token, expert).
  int64_t per_token =
      6LL * c.hidden + c.q_rank + c.latent + c.rope +
      int64_t{c.heads} * (c.qk_dim() + c.value + c.latent) + 3LL * c.index_heads * c.index_dim +
      c.index_topk +
      3LL * std::max(c.intermediate, (c.experts_per_token + c.shared_experts) * c.moe_intermediate);
  return 2 * 4 * per_token * step_tokens + 4LL * c.vocab * sequences + 2 * index_budget;
}

}  // namespace fathom
