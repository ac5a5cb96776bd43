#include "kernels/cpu/topk.h"

namespace fathom {

// Finds the k-th greatest key by halving the range of values it may have. Keys outside the range
// are dropped on the way, so a row is read about three times in all. The range halves for any
// scores, so a row never takes more than 32 rounds.
void select_topk(const AttentionKernels& kernels, const float* scores, int64_t n, int64_t k,
                 uint32_t* keys, uint32_t* active, int32_t* out) {
  uint32_t low, high;  // the k-th greatest key is within [low, high]
  kernels.order_keys(scores, n, keys, &low, &high);
  const uint32_t* left = keys;   // every key within [low, high]
  int64_t size = n, wanted = k;  // the k-th greatest key is the wanted-th greatest of these
  while (low < high) {
    uint32_t middle = low + (high - low) / 2 + 1;
    int64_t above = kernels.count_at_least(left, size, middle);
    bool upper = above >= wanted;
    if (above > 0 && above < size) {
      size = kernels.keep(left, size, middle, upper, active);
      left = active;
    }
    if (upper) {
      low = middle;
    } else {
      wanted -= above;
      high = middle - 1;
    }
  }
  // Of the keys equal to the threshold, `wanted` belong to the top k; the others of the k are above
  // it.
  kernels.emit(keys, n, low, wanted, out);
}

}  // namespace fathom
