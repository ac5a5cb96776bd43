// The order of the units of work. The producer warp walks it 32 units at a time, one a lane.
#pragma once

#include "kernels/cuda/indexer/index_scores_shape.h"

namespace fathom::cuda {

// A unit before it is issued: what the warpgroup is told, and the page that holds the keys.
struct IndexItem {
  int row = 0, rows = 0, position = 0, first_key = 0, page = 0;
};

__device__ __forceinline__ int index_page(const IndexArgs& a, int sequence, int page) {
  return a.page_tables[static_cast<int64_t>(sequence) * a.max_pages + page];
}

// Groups whose lengths only the device knows. A group is two neighbouring tokens (if kQueries is 2
// and they follow each other in one sequence) or a single token. A window is what 32 lanes hold,
// each a slot of kQueries tokens. A CTA finds its piece of the work by adding up all slots.
template <int kQueries>
class IndexDecodeSchedule {
 public:
  __device__ __forceinline__ IndexDecodeSchedule(const IndexArgs& a, int lane)
      : a_(a), lane_(lane) {
    load_window(a.begin);
    int64_t total = window_units_;
    for (int t = a.begin + kWindow; t < a.end; t += kWindow)
      total += __reduce_add_sync(~0u, load_slot(t + lane * kQueries).units);
    next_ = static_cast<int>(total * blockIdx.x / gridDim.x);
    last_ = static_cast<int>(total * (blockIdx.x + 1) / gridDim.x);
  }

  // Number of items, 0 at the end; lanes from that number on repeat the last one.
  __device__ __forceinline__ int next(IndexItem& item) {
    if (next_ == last_) return 0;
    while (next_ >= before_ + window_units_) {
      before_ += window_units_;
      load_window(window_ + kWindow);
    }
    const int count = min(min(32, last_ - next_), before_ + window_units_ - next_);
    const int unit = next_ + min(lane_, count - 1) - before_;
    next_ += count;
    int slot = 0;  // slots of the window that end at or before the unit
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      if (__shfl_sync(~0u, upto_, slot + step - 1) <= unit) slot += step;
    int page = unit - __shfl_sync(~0u, upto_ - slot_.units, slot);
    int sequence = __shfl_sync(~0u, slot_.sequence[0], slot);
    item.row = window_ + slot * kQueries;
    item.rows = __shfl_sync(~0u, slot_.rows, slot);
    item.position = __shfl_sync(~0u, slot_.position[0], slot);
    if constexpr (kQueries == 2) {
      const int first = __shfl_sync(~0u, slot_.first_units, slot);
      const int sequence1 = __shfl_sync(~0u, slot_.sequence[1], slot);
      const int position1 = __shfl_sync(~0u, slot_.position[1], slot);
      if (page >= first) {
        page -= first;
        ++item.row;
        sequence = sequence1;
        item.position = position1;
      }
    }
    item.first_key = page * kPageRows;
    item.page = index_page(a_, sequence, page);
    return count;
  }

 private:
  static constexpr int kWindow = 32 * kQueries;  // tokens
  static_assert(kQueries == 1 || kQueries == 2);

  struct Slot {
    int position[kQueries], sequence[kQueries];
    int rows;         // tokens of a group
    int first_units;  // pages of the slot's first group
    int units;        // of both, when its tokens do not belong together
  };
  __device__ __forceinline__ int pages_of(int position) const {
    return min(position / kPageRows + 1, a_.max_pages);
  }
  __device__ __forceinline__ Slot load_slot(int token) const {
    Slot s;
    int pages[kQueries];
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      const bool live = token + i < a_.end;
      s.position[i] = live ? a_.positions[token + i] : 0;
      s.sequence[i] = live ? a_.sequence_of[token + i] : -1;
      pages[i] = live ? pages_of(s.position[i]) : 0;
    }
    s.rows = 1;
    s.first_units = s.units = pages[0];
    if constexpr (kQueries == 2) {
      const bool joined = s.sequence[0] >= 0 && s.sequence[0] == s.sequence[1] &&
                          s.position[1] == s.position[0] + 1;
      s.rows = joined ? 2 : 1;
      s.first_units = joined ? pages[1] : pages[0];
      s.units = joined ? pages[1] : pages[0] + pages[1];
    }
    return s;
  }
  __device__ __forceinline__ void load_window(int token) {
    window_ = token;
    slot_ = load_slot(token + lane_ * kQueries);
    upto_ = slot_.units;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      int below = __shfl_up_sync(~0u, upto_, step);
      if (lane_ >= step) upto_ += below;
    }
    window_units_ = __shfl_sync(~0u, upto_, 31);
  }

  const IndexArgs& a_;
  const int lane_;
  int next_, last_;  // units of this CTA
  int window_;       // first token of the window
  int before_ = 0;   // units before the window
  int window_units_;
  Slot slot_;  // of this lane
  int upto_;   // units of the window's slots up to and with this lane's
};

// Groups of neighbouring tokens, known to the host.
template <int kQueries>
class IndexPrefillSchedule {
 public:
  __device__ __forceinline__ IndexPrefillSchedule(const IndexArgs& a, const IndexPrefillPlan& plan,
                                                  int lane)
      : a_(a), plan_(plan), lane_(lane) {
    next_ = plan.units * blockIdx.x / gridDim.x;
    last_ = plan.units * (blockIdx.x + 1) / gridDim.x;
  }

  __device__ __forceinline__ int next(IndexItem& item) {
    if (next_ == last_) return 0;
    const int count = static_cast<int>(min(int64_t{32}, last_ - next_));
    const int64_t unit = next_ + min(lane_, count - 1);
    next_ += count;
    while (span_ + 1 < plan_.count && plan_.spans[span_ + 1].units_before <= unit) ++span_;
    const IndexPrefillPlan::Span& span = plan_.spans[span_];
    const int64_t local = unit - span.units_before;
    // The last group that begins at or before the unit.
    int group = 0, beyond = (span.end - span.begin + kQueries - 1) / kQueries;
    while (beyond - group > 1) {
      const int middle = (group + beyond) / 2;
      (index_pages_before(span.position, middle, kQueries) <= local ? group : beyond) = middle;
    }
    const int page = static_cast<int>(local - index_pages_before(span.position, group, kQueries));
    item.row = span.begin + group * kQueries;
    item.rows = min(kQueries, span.end - item.row);
    item.position = span.position + group * kQueries;
    item.first_key = page * kPageRows;
    // A group cut short may count one page more than it has; scores of that page are not stored.
    const int last_page = (item.position + item.rows - 1) / kPageRows;
    item.page = index_page(a_, span.sequence, min(page, last_page));
    return count;
  }

 private:
  const IndexArgs& a_;
  const IndexPrefillPlan& plan_;
  const int lane_;
  int64_t next_, last_;
  int span_ = 0;
};

}  // namespace fathom::cuda
