// How long the kernels of a layer take on one GPU. The formulas have a few constants that were
// fitted to measurements on one H200; they are scaled to other GPUs by their rates. plan/measured.h
// compares the predictions with all measurements.
//
// All times are microseconds.
#pragma once

#include <cstdint>

#include "plan/gpu_model.h"

namespace fathom::plan {

class KernelTimes {
 public:
  // `wide`: weights are bf16 and products run in bf16, as on a GPU without FP8.
  KernelTimes(const GpuModel& gpu, bool wide);

  // [rows, k] x [n, k]^T, weights FP8 (or wide).
  double product(double rows, double n, double k) const;
  // The same for experts: `rows` of all experts together; `active` matrices are read.
  double grouped(double rows, double active, double n, double k) const;
  // Products whose weights are bf16 in all numerics: router, indexer weights, absorbed kv_b, head.
  double half_product(double rows, double n, double k) const;

  // Index scores of `rows` decoded tokens at `context` keys of `row_bytes` each.
  double decode_scores(double rows, double context, double row_bytes) const;
  // Index scores of (query, key) pairs of a prompt.
  double prompt_scores(double pairs, double index_heads, double index_dim) const;
  double top_k(double rows, double context) const;

  // Absorbed attention; `keys` are those of one token, `pairs` all (query, key) pairs of a prompt.
  // Heads run in tiles of 64: fewer heads take as long. `width`: 2 latent + rope.
  double decode_attention(double rows, double keys, int heads, double width,
                          double row_bytes) const;
  double prompt_attention(double pairs, int heads, double width) const;

  // Everything else of a layer: norms, quantisation, rope, cache rows, permutation, launches.
  double rest_of_layer(double rows) const;

 private:
  double weights_, grouped_, rows_;  // bytes a microsecond
  double few_, many_, half_;         // FLOP a microsecond of products
  double scores_, decode_, prompt_;  // and of attention
  double bytes_;                     // of one weight
};

// Exchange of a layer's rows between the ranks of a group.
class ExchangeTimes {
 public:
  // `per_node`: ranks of a node. A group that spans nodes runs at the rate of their network.
  ExchangeTimes(const GpuModel& gpu, int per_node);

  // Sum of `rows` rows of `row_bytes` over a group's ranks; every rank gets the result.
  double sum(int ranks, double rows, double row_bytes) const;
  // Every rank gets the data of all others; `bytes` is the data of all ranks together.
  double gather(int ranks, double bytes) const;
  // Rows go to the ranks of their experts, and what these have made of them comes back: every rank
  // sends `bytes` to others and receives as much.
  double send_rows(int ranks, double bytes) const;
  double bring_rows(int ranks, double bytes) const;
  // Passes over the rows of other ranks, beside rest_of_layer() for a rank's own.
  double rest_of_others(double rows) const;

 private:
  double rate(int ranks, double measured) const;
  double start(int ranks, double measured) const;
  const GpuModel& gpu_;
  int per_node_;
};

}  // namespace fathom::plan
