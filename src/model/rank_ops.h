// RankOps: the ops of one of several ranks. Where every rank would compute the same rows, each
// computes its share and they exchange results, so that whoever calls or observes these ops sees
// what one rank alone would compute:
//   index_topk  of many tokens: rows of the indexer are independent, and only the finished picks
//               travel; few tokens cost less than an exchange
//   logits      each rank's part of the vocabulary
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
