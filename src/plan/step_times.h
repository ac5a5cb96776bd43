// How long a step of the model takes on the GPUs of a layout. Pure arithmetic over KernelTimes; the
// slowest rank counts. Times are microseconds.
#pragma once

#include "model/config.h"
#include "model/rank_layout.h"
#include "plan/kernel_times.h"

namespace fathom::plan {

// Where a layer's time goes, on the rank that takes longest.
struct LayerTime {
  double attention = 0;  // projections, indexer and attention
  double mlp = 0;        // router, experts and shared expert, or the dense MLP
  double exchange = 0;   // between ranks; none of it is assumed to overlap with kernels
  double rest = 0;       // everything else
  double total() const { return attention + mlp + exchange + rest; }
};

class StepTimes {
 public:
  // `numerics`: fp8, or bf16 for weights, products and cache rows. `per_node`: ranks of a machine.
  StepTimes(const Config& config, const RankLayout& layout, const GpuModel& gpu, Numerics numerics,
            int per_node);

  // One layer of a step that decodes `sequences` sequences in each attention group, each `context`
  // tokens long.
  LayerTime decode_layer(bool moe, int sequences, int64_t context) const;
  // One layer of a step with a prompt chunk of `tokens` tokens in each group, from position `first`
  // on.
  LayerTime prompt_layer(bool moe, int tokens, int64_t first) const;

  // Whole steps: all layers, the output matrix, drawing.
  double decode_step(int sequences, int64_t context) const;
  double prompt_chunk(int tokens, int64_t first) const;
  // A prompt of `context` tokens in chunks of `step_tokens`, alone in its group.
  double prompt(int64_t context, int step_tokens) const;

 private:
  struct Rows {
    double tokens = 0;       // of an attention group
    double scored = 0;       // tokens that the indexer scores
    double score_pairs = 0;  // their (query, key) pairs
    double pairs = 0;        // of attention
    int64_t context = 0;     // the longest
    bool decode = false;
  };
  Rows decode_rows(int sequences, int64_t context) const;
  Rows prompt_rows(int tokens, int64_t first) const;
  LayerTime layer(bool moe, const Rows& rows) const;
  double attention(const Rows& rows) const;
  double experts(double tokens) const;
  double exchange(bool moe, const Rows& rows) const;
  double layers(const Rows& rows) const;
  double head(double rows) const;

  Config config_;
  RankLayout layout_;
  KernelTimes kernels_;
  ExchangeTimes links_;
  bool wide_;
};

// Returns the expected number of distinct experts that `tokens` tokens choose, `per_token` of
// `experts` each, if all are equally likely.
double distinct_experts(double experts, double per_token, double tokens);

// The same for the busiest of `ranks` ranks that hold `experts / ranks` experts each: what the
// greatest of so many draws is expected to be, but at most all that it holds.
double busiest_rank_experts(const Config& config, double tokens, int ranks);

// Returns the average number of other ranks to which a token's row is sent. Routing keeps
// kept_groups of the groups of experts, and groups lie on consecutive ranks.
double destinations(const Config& config, int ranks);

}  // namespace fathom::plan
