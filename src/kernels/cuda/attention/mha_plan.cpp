#include "kernels/cuda/attention/mha_plan.h"

#include <algorithm>

#include "numerics/cache_rows.h"

namespace fathom::cuda::mha {
namespace {

constexpr size_t kAlignment = 256;
constexpr int kKeyBlock = 128;

size_t take(size_t& used, size_t bytes) {
  size_t at = used;
  used += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return at;
}

}  // namespace

WorkspacePlan workspace_plan(int tokens, int64_t context, bool masked, int group) {
  using D = KernelDims;
  WorkspacePlan p;
  p.group = group;
  p.mask_words = static_cast<int>((context + kKeyBlock - 1) / kKeyBlock * (kKeyBlock / 32));
  const size_t rows = static_cast<size_t>(context), heads = static_cast<size_t>(group);
  p.latent = take(p.bytes, rows * 2 * D::kRow);
  p.mask = take(p.bytes, masked ? static_cast<size_t>(tokens) * p.mask_words * 4 : 0);
  p.weights = take(p.bytes, heads * 2 * D::kNope * D::kLatent);
  p.keys = take(p.bytes, rows * heads * 2 * D::kNope);
  p.values = take(p.bytes, rows * heads * 2 * D::kValue);
  return p;
}

WorkspacePlan fit_workspace(int tokens, int64_t context, bool masked, int heads, size_t bytes) {
  int group = heads;
  while (group > 0 && workspace_plan(tokens, context, masked, group).bytes > bytes) --group;
  if (group == 0) return {};
  const int groups = (heads + group - 1) / group;
  return workspace_plan(tokens, context, masked, (heads + groups - 1) / groups);
}

}  // namespace fathom::cuda::mha
