// RankRecord: what a rank chose in its steps, and the bits with which it ended every sum over the
// ranks. Ranks of one model, in this process or another, must have equal records.
#pragma once

#include "cache/page_key.h"
#include "kernels/trace_ops.h"

namespace fathom {

// Each is a key of 128 bits of all values so far, in order.
struct RankRecord {
  PageKey picked;   // positions, by the indexer
  PageKey experts;  // by the router
  PageKey sums;     // the residual stream after each sum
  bool operator==(const RankRecord&) const = default;
};

// Watches the ops of one rank, whose tensors the host can read. The record must outlive it.
class RankRecorder final : public TraceOps {
 public:
  RankRecorder(Ops& inner, RankRecord& record) : TraceOps(inner), record_(record) {}

 private:
  void after(OpKind kind, std::span<const Tensor> results) override;
  RankRecord& record_;
};

}  // namespace fathom
