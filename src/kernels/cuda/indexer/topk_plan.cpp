#include "kernels/cuda/indexer/topk_plan.h"

#include <initializer_list>

namespace fathom::cuda {

TopkPlan topk_plan(int rows, int64_t max_context, int sms) {
  // One CTA holds short rows: the smallest shape that fits leaves room for more rows on an SM.
  // Where rows queue for SMs, two CTAs on one hide each other's waits: none may fill an SM alone.
  for (TopkPlan shape : kTopkShapes)
    if (shape.capacity() >= max_context && (rows <= sms || shape.threads < 1024)) return shape;

  // Few long rows are spread over clusters, as long as all of them run at once: a second wave
  // doubles the time. With one CTA an SM, clusters cannot use all SMs of a GPC; larger clusters
  // leave more idle.
  auto at_once = [&](int cluster) {
    return sms / cluster * (cluster == 2 ? 32 : cluster == 4 ? 27 : 24) / 32;
  };
  for (TopkPlan plan :
       {TopkPlan{1024, 4, 2}, TopkPlan{1024, 4, 4}, TopkPlan{1024, 4, 8}, TopkPlan{1024, 5, 8}})
    if (plan.capacity() >= max_context) {
      if (rows > at_once(plan.cluster)) continue;
      if (plan.cluster == 2 && rows <= at_once(4)) plan.cluster = 4;  // idle SMs: lower latency
      return plan;
    }
  const TopkPlan two_an_sm = {512, 8, 8};
  if (two_an_sm.capacity() >= max_context && rows <= 2 * at_once(8)) return two_an_sm;

  // More rows are streamed, a CTA each; two CTAs share an SM when there are more rows than SMs.
  return kTopkStreams[rows <= sms ? 1 : 0];
}

}  // namespace fathom::cuda
