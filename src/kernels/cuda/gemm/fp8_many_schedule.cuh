// Which tile a persistent CTA computes next. Producer and math warps each walk the same list.
#pragma once

#include <cstdint>

namespace fathom::cuda {

// What the tiles of a cluster's two CTAs share: each CTA loads half of it for both.
enum class Shared : uint8_t { nothing, rows, weights };

struct ManySchedule {
  int rows;                // of the whole matrix (dense)
  int column_units;        // clusters along the columns
  int row_units;           // dense: clusters along the rows
  int group;               // dense: row units walked before the next column unit, to stay within L2
  const int32_t* offsets;  // grouped: [experts + 1], else null
  int experts;
};

struct ManyTileAt {
  int row, row_end;  // rows stored are [row, row_end), at most `chunks` chunks
  int chunks;        // chunks of 64 that have rows; 0 in a cluster's tile past the end
  int column;
  int expert;
};

// Grouped: first[e] = units of the experts before e, starts[e] = offsets[e], for e <= experts.
// An expert's rows make ceil(chunks / most chunks of a tile) tiles. One warp.
template <class C>
__device__ __forceinline__ void list_expert_tiles(const ManySchedule& schedule, int* list) {
  constexpr int kMost = C::kChunks;
  const int lane = threadIdx.x % 32, experts = schedule.experts;
  int* first = list;
  int* starts = list + experts + 1;
  const int share = (experts + 31) / 32;  // consecutive experts of a lane
  const int begin = min(lane * share, experts), end = min(begin + share, experts);
  int tiles = 0;
  for (int e = begin; e < end; ++e) {
    const int start = schedule.offsets[e], rows = schedule.offsets[e + 1] - start;
    starts[e] = start;
    tiles += ((rows + 63) / 64 + kMost - 1) / kMost;
  }
  int before = tiles;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, before, step);
    if (lane >= step) before += other;
  }
  before -= tiles;
  for (int e = begin; e < end; ++e) {
    const int rows = schedule.offsets[e + 1] - schedule.offsets[e];
    first[e] = before * schedule.column_units;
    before += ((rows + 63) / 64 + kMost - 1) / kMost;
  }
  if (end == experts && begin < end) {
    first[experts] = before * schedule.column_units;
    starts[experts] = schedule.offsets[experts];
  }
}

template <class C>
class ManyCursor {
 public:
  __device__ __forceinline__ ManyCursor(const ManySchedule& schedule, const int* list)
      : list_(list), unit_(static_cast<int>(blockIdx.x) / C::kCluster), expert_(0) {
    units_ = list ? list[schedule.experts] : schedule.row_units * schedule.column_units;
  }

  // The CTA's next tile; false at the end.
  __device__ __forceinline__ bool next(const ManySchedule& schedule, ManyTileAt& at) {
    if (unit_ >= units_) return false;
    const int rank = static_cast<int>(blockIdx.x) % C::kCluster;
    int row_unit, column_unit;
    if (list_) {
      // Rows fastest: the tiles that share weights run side by side, so that DRAM is read once.
      while (unit_ >= list_[expert_ + 1]) ++expert_;
      const int begin = list_[schedule.experts + 1 + expert_];
      const int end = list_[schedule.experts + 2 + expert_];
      const int chunks = (end - begin + 63) / 64;
      const int tiles = (chunks + C::kChunks - 1) / C::kChunks;
      const int inside = unit_ - list_[expert_];
      row_unit = inside % tiles;
      column_unit = inside / tiles;
      // Chunks are dealt evenly: 5 make tiles of 3 and 2, not of 4 and 1.
      const int share = chunks / tiles, more = chunks % tiles;
      at.chunks = share + (row_unit < more ? 1 : 0);
      at.row = begin + (row_unit * share + min(row_unit, more)) * 64;
      at.row_end = min(end, at.row + at.chunks * 64);
      at.expert = expert_;
    } else {
      // Unsigned, and no remainders: nothing hides what this takes between two tiles.
      const unsigned in_group = static_cast<unsigned>(schedule.group * schedule.column_units);
      const unsigned group = static_cast<unsigned>(unit_) / in_group;
      const int first = static_cast<int>(group) * schedule.group;
      const unsigned height =
          static_cast<unsigned>(min(schedule.group, schedule.row_units - first));
      const unsigned inside = static_cast<unsigned>(unit_) - group * in_group;
      column_unit = static_cast<int>(inside / height);
      row_unit = first + static_cast<int>(inside - static_cast<unsigned>(column_unit) * height);
      if constexpr (C::kShared == Shared::weights) row_unit = row_unit * 2 + rank;
      at.row = row_unit * C::kRows;
      at.row_end = schedule.rows;
      at.chunks = max(0, min(C::kChunks, (schedule.rows - at.row + 63) / 64));
      at.expert = 0;
    }
    if constexpr (C::kShared == Shared::rows) column_unit = column_unit * 2 + rank;
    at.column = column_unit * C::kColumns;
    unit_ += static_cast<int>(gridDim.x) / C::kCluster;
    return true;
  }

 private:
  const int* list_;
  int unit_, units_, expert_;
};

}  // namespace fathom::cuda
