// Which kernel selects, with how many CTAs a row. Chosen from what the host knows (rows, greatest
// context), so that a recorded graph stays valid whatever the lengths are.
#pragma once

#include <cstdint>

namespace fathom::cuda {

struct TopkPlan {
  int threads;  // of a CTA
  int vectors;  // 16-byte loads a thread keeps in registers; 0: rows are streamed, in any length
  int cluster;  // CTAs of a row: 1, 2, 4 or 8; 1 when streamed

  bool streams() const { return vectors == 0; }
  int64_t capacity() const { return int64_t{4} * threads * vectors * cluster; }  // not streamed
};

// The compiled shapes of a CTA that keeps its scores, smallest first; {512, 8} holds as much as
// {1024, 4} in half an SM. And those that stream.
inline constexpr TopkPlan kTopkShapes[] = {
    {256, 4, 1}, {512, 4, 1}, {1024, 4, 1}, {512, 8, 1}, {1024, 5, 1}};
inline constexpr TopkPlan kTopkStreams[] = {{512, 0, 1}, {1024, 0, 1}};

TopkPlan topk_plan(int rows, int64_t max_context, int sms);

}  // namespace fathom::cuda
