// Weights in the memory of the device that uses them. A CPU reads them in the mapped files. For a
// GPU they are copied into its memory, in the layout of its kernels:
//   projections of one input lie one after the other and run as one product,
//   the experts of a layer are one array of stacked gate and up matrices, and one of down matrices,
//   kv_b is bf16 in two parts, the key part transposed,
//   other matrices are bf16; in bf16 numerics FP8 weights are dequantised to bf16.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "model/config.h"
#include "model/rank_layout.h"
#include "model/weights.h"
#include "numerics/modes.h"
#include "tensor/buffer.h"

namespace fathom {

class PlacedWeights {
 public:
  // In all functions `config` is the whole model's; `layout` says which rank's part is meant.

  // Bytes of GPU memory that the weights of a model take.
  static int64_t bytes_on_gpu(const Config& config, Numerics numerics,
                              const RankLayout& layout = {});

  // Bytes of memory that the copy of a rank's weights takes.
  static int64_t bytes_of_copy(const Config& config, const Weights& host, Numerics numerics);

  // Copies `host`, a rank's weights (with a scale for every FP8 matrix) to the GPU. kind: device,
  // or shared for observers. Several threads call `copied` with bytes that are done; together these
  // are no more than bytes_of_copy(). Throws Error when memory or the device fails.
  static PlacedWeights copy_to_gpu(const Config& config, const Weights& host, Numerics numerics,
                                   MemoryKind kind,
                                   const std::function<void(int64_t bytes)>& copied = {});

  // Weights of the same shapes, filled on the GPU by a counter-based generator: for measuring a
  // model without its files. Their standard deviations keep activations near 1.
  static PlacedWeights random(const Config& config, Numerics numerics, uint64_t seed,
                              const RankLayout& layout = {});

  const Weights& weights() const { return *weights_; }
  int64_t bytes() const { return static_cast<int64_t>(memory_.size()); }

 private:
  std::unique_ptr<Weights> weights_ = std::make_unique<Weights>();
  Buffer memory_;
};

}  // namespace fathom
