#include "kernels/cuda/indexer/topk_plan.h"

#include <initializer_list>

namespace fathom::cuda {

TopkPlan topk_plan(int rows, int64_t max_context, int sms) {
  // One CTA holds short rows: the smallest shape that fits leaves room for more rows on an SM.
  for (TopkPlan shape : kTopkShapes)
    if (shape.capacity() >= max_context) return shape;

  // Enough rows to keep half the SMs busy are streamed; two CTAs share an SM when there are many.
  if (rows * 2 > sms) return kTopkStreams[rows <= sms ? 1 : 0];

  // Few long rows are spread over clusters, further than they need to be while SMs are idle.
  for (TopkPlan plan : {TopkPlan{1024, 4, 2}, TopkPlan{1024, 4, 4}, TopkPlan{1024, 4, 8}})
    if (plan.capacity() >= max_context) {
      while (plan.cluster < 8 && int64_t{rows} * plan.cluster * 2 <= sms) plan.cluster *= 2;
      return plan;
    }
  return {1024, 5, 8};
}

}  // namespace fathom::cuda
