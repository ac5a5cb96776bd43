#include "kernels/cuda/cuda_ops_plan.h"

#include <algorithm>

#include "base/error.h"

namespace fathom::cuda {
namespace {

const char* bytes_at(const void* p) { return static_cast<const char*>(p); }

int64_t code_bytes(const QWeight& w) {
  return w.rows * w.cols * static_cast<int64_t>(size_of(w.dtype));
}

// `next` begins where `w` ends, in codes and in scales.
bool follows(const QWeight& w, const QWeight& next) {
  if (w.dtype != next.dtype || w.cols != next.cols) return false;
  if (bytes_at(next.data) != bytes_at(w.data) + code_bytes(w)) return false;
  if (!w.is_fp8()) return true;
  return w.row_offset == 0 && next.row_offset == 0 && w.rows % kFp8Block == 0 &&
         w.scale_stride == next.scale_stride &&
         next.scale == w.scale + w.rows / kFp8Block * w.scale_stride;
}

}  // namespace

int group_projections(std::span<const Projection> projections, std::span<ProjectionGroup> groups) {
  FATHOM_CHECK(projections.size() <= groups.size() && projections.size() <= 16,
               "{} projections of one input", projections.size());
  const Projection* order[16];
  for (size_t i = 0; i < projections.size(); ++i) order[i] = &projections[i];
  std::sort(order, order + projections.size(), [](const Projection* a, const Projection* b) {
    return bytes_at(a->weight.data) < bytes_at(b->weight.data);
  });
  int count = 0;
  for (size_t i = 0; i < projections.size(); ++i) {
    const Projection& p = *order[i];
    ProjectionGroup* g = count > 0 ? &groups[count - 1] : nullptr;
    // Inner borders of a product with several outputs lie at multiples of 64 columns.
    if (g && g->count < kMaxMerged && g->weight.rows % 64 == 0 && follows(g->weight, p.weight)) {
      g->weight.rows += p.weight.rows;
    } else {
      g = &groups[count++];
      *g = {};
      g->weight = p.weight;
    }
    g->parts[g->count++] = &p;
  }
  return count;
}

bool stacked(const MlpWeights& w) { return w.gate.rows % 64 == 0 && follows(w.gate, w.up); }

ExpertArrays expert_arrays(std::span<const MlpWeights> experts) {
  FATHOM_CHECK(!experts.empty(), "no experts");
  const MlpWeights& first = experts[0];
  ExpertArrays a;
  a.up = first.gate.data;
  a.down = first.down.data;
  a.up_scales = first.gate.scale;
  a.down_scales = first.down.scale;
  a.experts = static_cast<int>(experts.size());
  a.hidden = static_cast<int>(first.gate.cols);
  a.intermediate = static_cast<int>(first.gate.rows);
  a.fp8 = first.gate.is_fp8();
  int64_t up_bytes = 2 * code_bytes(first.gate), down_bytes = code_bytes(first.down);
  int64_t blocks = a.fp8 ? first.gate.rows / kFp8Block * first.gate.scale_stride : 0;
  int64_t down_blocks =
      a.fp8 ? (first.down.rows + kFp8Block - 1) / kFp8Block * first.down.scale_stride : 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    const MlpWeights& w = experts[e];
    int64_t i = static_cast<int64_t>(e);
    bool codes = bytes_at(w.gate.data) == bytes_at(a.up) + i * up_bytes &&
                 bytes_at(w.down.data) == bytes_at(a.down) + i * down_bytes;
    bool scales = !a.fp8 || (w.gate.scale == a.up_scales + 2 * i * blocks &&
                             w.down.scale == a.down_scales + i * down_blocks);
    FATHOM_CHECK(codes && scales && follows(w.gate, w.up) && w.gate.rows == a.intermediate &&
                     w.down.rows == a.hidden && w.down.cols == a.intermediate &&
                     w.down.is_fp8() == a.fp8,
                 "expert {} does not lie where the grouped products expect it", e);
  }
  return a;
}

int64_t context_limit(int64_t context, int64_t topk, int64_t most) {
  if (topk > 0 && context <= topk) return std::min(round_up(topk, kPageRows), most);
  int64_t limit = 1024;
  while (limit < context) limit *= 2;
  return std::min(limit, most);
}

int score_tile(int64_t budget, int64_t context, int tokens) {
  int64_t rows = budget / (4 * round_up(context, kPageRows));
  return static_cast<int>(std::clamp<int64_t>(rows, 1, std::max(tokens, 1)));
}

std::vector<AttentionRun> attention_runs(std::span<const AttentionSpan> spans, AttentionForm form,
                                         bool one_kernel) {
  std::vector<AttentionRun> runs;
  for (const AttentionSpan& s : spans) {
    if (s.form != form) continue;
    bool decode = one_kernel || s.end - s.begin <= kDecodeSpan;
    if (!runs.empty() && runs.back().end == s.begin && runs.back().decode == decode)
      runs.back().end = s.end;
    else
      runs.push_back({s.begin, s.end, decode});
  }
  // Runs are cut to the number of tokens that scratch is sized for.
  std::vector<AttentionRun> cut;
  for (const AttentionRun& r : runs) {
    int tile = r.decode ? kDecodeTile : kPrefillTile;
    for (int begin = r.begin; begin < r.end; begin += tile)
      cut.push_back({begin, std::min(r.end, begin + tile), r.decode});
  }
  return cut;
}

int64_t widest_input(const Workload& w) {
  int64_t widest = std::max<int64_t>(2LL * w.hidden, int64_t{w.heads} * w.value);
  return std::max<int64_t>(widest, w.q_rank);
}

int64_t max_pages(const Workload& w) { return (w.context + kPageRows - 1) / kPageRows + 2; }

int64_t scratch_bytes(Numerics numerics, const Workload& w) {
  const int64_t t = w.step_tokens, rows = t * w.experts_per_token;
  const int64_t slack = 16 * kScratchAlign;
  auto act = [&](int64_t n, int64_t width) {
    return numerics == Numerics::fp8 ? coded_bytes(n, width)
                                     : round_up(2 * n * width, kScratchAlign);
  };
  const int64_t expert = w.expert_intermediate;
  auto mlp_of = [&](int64_t n) { return 4 * n * w.max_intermediate + act(n, w.max_intermediate); };
  const int64_t mlp = mlp_of(t), route = 4 * t * w.experts;
  // The experts' inputs share a buffer with activations, and gate and up with results, since the
  // two of a pair are never needed at the same time.
  int64_t moe = std::max(act(rows, w.hidden), act(rows, expert)) +
                std::max(4 * rows * expert, 2 * rows * w.hidden);
  if (w.experts > 0) {
    // Of few tokens the shared expert runs beside routing and the experts.
    const int64_t few = std::min<int64_t>(t, kBranchTokens);
    moe = 2 * t * w.hidden + std::max(mlp, moe) + 4 * few * w.experts + mlp_of(few);
  } else {
    moe = 0;
  }
  int64_t attend = 4 * std::min<int64_t>(t, kPrefillTile) * w.heads * w.latent;
  int64_t index =
      w.index_heads > 0 ? std::max(w.index_budget, 4 * round_up(w.context, kPageRows)) : 0;
  if (w.ranks > 1) {  // the rows that are this rank's lie together: queries, weights, places, picks
    const int64_t own = t / w.ranks + RowShare::kBlock;
    index += own * (w.index_heads * (2LL * w.index_dim + 4) + 8 + 4LL * w.index_topk);
  }
  return std::max({mlp, moe, route, attend, index}) + slack;
}

StagingPlan plan_staging(int tokens, int sequences, int pages) {
  constexpr int64_t kInt = sizeof(int32_t);
  const int64_t array = round_up(tokens * kInt, 64);
  StagingPlan p;
  p.live = 0;
  p.ids = 64;
  p.positions = p.ids + array;
  p.sequence_of = p.positions + array;
  p.logit_rows = p.sequence_of + array;
  p.carried = p.logit_rows + array;
  p.page_tables = p.carried + array;
  p.bytes = p.page_tables + int64_t{sequences} * pages * kInt;
  return p;
}

}  // namespace fathom::cuda
