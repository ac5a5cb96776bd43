#include "kernels/cuda/indexer/topk_cluster.cuh"
#include "kernels/cuda/indexer/topk_launch.h"
#include "kernels/cuda/indexer/topk_stream.cuh"

namespace fathom::cuda {
namespace {

template <int kThreads, int kVectors>
void run_kept(const TopkParams& p, const TopkPlan& plan, const Launch& l) {
  launch_kernel(l, topk::topk_kernel<kThreads, kVectors>,
                dim3(static_cast<unsigned>(p.rows) * plan.cluster), dim3(kThreads),
                sizeof(topk::Shared<topk::list_size(kThreads * kVectors * 4)>), plan.cluster, p,
                plan.cluster);
}

template <class S>
void run_streamed(const TopkParams& p, const Launch& l) {
  static_assert(S::kResident * (sizeof(topk::StreamShared<S>) + 1024) <= 228 * 1024);
  launch_kernel(l, topk::stream_kernel<S>, dim3(p.rows), dim3(S::kThreads),
                sizeof(topk::StreamShared<S>), 1, p);
}

}  // namespace

void index_topk_planned(const TopkParams& p, const TopkPlan& plan, const Launch& l) {
  if (p.rows == 0) return;
  require(p.topk >= 1 && p.topk <= kMaxTopk, "top-k keeps 1 to 2048 positions");
  require(p.max_context >= 1 && p.max_context <= kMaxTopkContext &&
              (plan.streams() || p.max_context <= plan.capacity()),
          "top-k: contexts up to 163840 positions are supported");
  require(p.stride % 4 == 0 && p.stride >= p.max_context &&
              reinterpret_cast<uintptr_t>(p.scores) % 16 == 0,
          "top-k: score rows are 16-byte aligned and hold the greatest context");
  switch (plan.threads * 10 + plan.vectors) {
    case 2564:
      return run_kept<256, 4>(p, plan, l);
    case 5124:
      return run_kept<512, 4>(p, plan, l);
    case 5128:
      return run_kept<512, 8>(p, plan, l);
    case 10244:
      return run_kept<1024, 4>(p, plan, l);
    case 10245:
      return run_kept<1024, 5>(p, plan, l);
    case 5120:
      if (p.max_context <= topk::ShortRows::kContext) return run_streamed<topk::ShortRows>(p, l);
      return run_streamed<topk::LongRows>(p, l);
    case 10240:
      return run_streamed<topk::FewRows>(p, l);
    default:
      fail_plain("top-k: no kernel of the planned shape");
  }
}

void index_topk(const TopkParams& p, const Launch& l) {
  index_topk_planned(p, topk_plan(p.rows, p.max_context, l.sms), l);
}

}  // namespace fathom::cuda
