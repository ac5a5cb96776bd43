// SelectionTap: keeps the positions that the indexer picked in each layer, for tokens whose logits
// are wanted. The chat page shows with them which earlier tokens an answer is based on. An engine
// puts one between model and ops only if it is asked to keep selections.
#pragma once

#include <span>
#include <vector>

#include "kernels/trace_ops.h"
#include "runtime/step_runner.h"

namespace fathom {

// For ops on the host's memory. Thread-compatible. Allocates in its constructor only.
class SelectionTap final : public TraceOps {
 public:
  // `rows`: logit rows of one step; `topk`: positions that a token picks at most.
  SelectionTap(Ops& inner, int layers, int rows, int topk);

  // Called before each step. `logit_rows`: the batch tokens of its logit rows; `draws` says which
  // of them are kept.
  void watch(std::span<const int32_t> logit_rows, std::span<const Draw> draws);
  // Returns the positions picked for that row's token, ascending. These are all positions up to its
  // own if there are at most top-k.
  std::span<const int32_t> picked(int row, int layer) const;

 private:
  void after(OpKind kind, std::span<const Tensor> results) override;

  struct Watched {
    int row, token;
  };
  size_t place(int row, int layer) const {
    return static_cast<size_t>(layer) * static_cast<size_t>(rows_) + static_cast<size_t>(row);
  }

  const int layers_, rows_, topk_;
  std::vector<Watched> watched_;
  std::vector<int32_t> picks_;   // [layers, rows, topk]
  std::vector<int32_t> counts_;  // [layers, rows]
};

}  // namespace fathom
