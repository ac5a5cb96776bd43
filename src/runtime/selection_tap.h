// SelectionTap: keeps what the indexer picked for the tokens whose logits are wanted, layer by
// layer, so that a reader can be shown what an answer was made from. Only an engine that was asked
// to keep selections has one between model and ops; the others pay nothing.
#pragma once

#include <span>
#include <vector>

#include "kernels/trace_ops.h"
#include "runtime/step_runner.h"

namespace fathom {

// On the host's memory. Thread-compatible; memory is taken in the constructor.
class SelectionTap final : public TraceOps {
 public:
  // `rows`: logit rows of one step; `topk`: positions that a token picks at most.
  SelectionTap(Ops& inner, int layers, int rows, int topk);

  // In front of each step: the batch tokens of its logit rows, and which of them are to be kept.
  void watch(std::span<const int32_t> logit_rows, std::span<const Draw> draws);
  // What that row's token picked, ascending: all positions up to its own where they are not more
  // than top-k.
  std::span<const int32_t> picked(int row, int layer) const;

  void enter_layer(int layer) override;
  void index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                  const BatchView& batch) override;

 private:
  struct Watched {
    int row, token;
  };
  size_t place(int row, int layer) const {
    return static_cast<size_t>(layer) * static_cast<size_t>(rows_) + static_cast<size_t>(row);
  }

  const int layers_, rows_, topk_;
  int layer_ = 0;
  std::vector<Watched> watched_;
  std::vector<int32_t> picks_;   // [layers, rows, topk]
  std::vector<int32_t> counts_;  // [layers, rows]
};

}  // namespace fathom
