// SelectionTap: keeps what the indexer picked, layer by layer, for the tokens whose logits are
// wanted. A user interface shows with it which earlier tokens an answer is based on. Only an engine
// that is asked to keep selections puts one between model and ops.
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

  // Called before each step: the batch tokens of its logit rows, and which of them are to be kept.
  void watch(std::span<const int32_t> logit_rows, std::span<const Draw> draws);
  // The positions picked for that row's token, ascending. All positions up to its own if these are
  // at most top-k.
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
