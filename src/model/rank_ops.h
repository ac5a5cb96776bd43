// RankOps: the ops of one of several ranks. For two ops in which every rank would compute the same
// rows, each rank computes its share and the results are exchanged. So callers and observers see
// the same results as with one rank:
//   index_topk  of many tokens: rows are independent, and only the finished picks are exchanged
//               (few tokens cost less than an exchange: every rank computes them all)
//   logits      each rank computes its part of the vocabulary
#pragma once

#include "comm/comm.h"
#include "kernels/trace_ops.h"

namespace fathom {

class RankOps final : public TraceOps {
 public:
  // Both must outlive this object.
  RankOps(Ops& inner, Comm& comm) : TraceOps(inner), comm_(comm) {}

  void index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                  const BatchView& batch) override;
  // `head`: this rank's rows.
  void logits(Tensor out, Tensor hidden, const QWeight& head) override;

 private:
  Comm& comm_;
};

}  // namespace fathom
