// The operators on one H100 or H200, and what recording a step into a CUDA graph needs beside them.
// Includes no CUDA header, so that code which chooses a device builds without the toolkit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "comm/comm.h"
#include "kernels/ops.h"

namespace fathom {

namespace cuda {
struct PeerView;
struct Launch;
}  // namespace cuda

// Rows of all groups in this rank's memory, one after the other: row r lies at data + r * bytes.
struct RowPlane {
  std::byte* data = nullptr;
  int64_t bytes = 0;  // of a row; 0: there is no such plane
};
// Codes or bf16 values, scales, ids, weights.
using ExpertPlanes = std::array<RowPlane, 4>;

struct CudaSettings {
  bool dependent_launch = true;  // kernels start while their predecessor ends
  // Everything in memory that the host reads too: for observers between ops, who synchronise.
  bool shared_memory = false;
  // Cache appends and ropes wait for each other and run as one kernel; so do the sum over many
  // tokens' experts and the norm behind it, which leaves no `update`; attention leaves codes alone
  // where FP8 weights read them. Only an observer who looks between two ops without download()
  // could tell, or one who reads `update` behind the norm, or `attended`. Off, a recording has no
  // branches either.
  bool fuse = true;
};

// All work goes in order to one stream; within an op a recording may have a branch.
// Thread-compatible.
class CudaOps : public Ops {
 public:
  // A step is recorded by capturing stream() around the model's calls, begin_step included, while
  // nothing else is queued there, and replayed after restage(), which queues the copy of its
  // inputs. What changes between replays is device data. A recording serves every step of as many
  // tokens, logit rows and pages a table, whose tokens fall into spans alike and whose longest
  // context has the same context_limit(); any number of recordings may exist.
  void* stream() const override = 0;
  virtual void restage(const StepInputs& inputs) = 0;
  virtual int64_t context_limit(int64_t context) const = 0;

  // Ids that the device has drawn and the host does not know yet: in the step that is brought next,
  // token t's id is drawn[rows[t]] where rows[t] is not negative, and what the inputs say elsewhere
  // (behind the end of `rows`, too). `drawn` lies in the device's memory and is set once, in front
  // of the first recording.
  virtual void carry_from(const int32_t* drawn) = 0;
  virtual void carry_ids(std::span<const int32_t> rows) = 0;

  // Exchanges with the ranks of `peers`, each of which calls the same (comm/comm.h says what they
  // leave). BF16 rows.
  virtual void all_reduce(const cuda::PeerView& peers, Tensor x) = 0;
  virtual void all_reduce_add_rms_norm(const cuda::PeerView& peers, Tensor normed, Tensor residual,
                                       Tensor update, const float* gain, float eps) = 0;
  virtual void all_gather_columns(const cuda::PeerView& peers, Tensor x) = 0;
  virtual void all_gather_rows(const cuda::PeerView& peers, Tensor x, int block) = 0;
  // Any other exchange of `x`: `body` queues it.
  virtual void exchange(Tensor x, const std::function<void(const cuda::Launch&)>& body) = 0;
  // Group g has rows [offsets[g], offsets[g + 1]) of all; `own` and `sum` have as many, or none.
  virtual void gather_expert_rows(const cuda::PeerView& peers, const ExpertRows& all,
                                  const ExpertRows& own, const ExpertSpread& spread,
                                  std::span<const int64_t> offsets) = 0;
  virtual void sum_expert_rows(const cuda::PeerView& peers, Tensor sum, Tensor parts, Tensor ids,
                               const ExpertSpread& spread, std::span<const int64_t> offsets) = 0;
  // The part of gather_expert_rows() that needs no other rank: the rows which rank `rank` of
  // `ranks` brings are put in their places. Those of other ranks must be brought to the returned
  // planes before the next op.
  virtual ExpertPlanes place_expert_rows(int rank, int ranks, const ExpertRows& all,
                                         const ExpertRows& own, const ExpertSpread& spread,
                                         std::span<const int64_t> offsets) = 0;

  virtual void synchronize() = 0;
  // Device memory held by the ops themselves.
  virtual size_t bytes() const = 0;
};

// Device memory make_cuda_ops will take. Needs no GPU.
size_t cuda_ops_bytes(Numerics numerics, const Workload& workload);

// On the current device. Throws Error when it is no sm_90 GPU, when its memory does not suffice,
// for `exact` numerics and for dims the kernels are not built for.
std::unique_ptr<CudaOps> make_cuda_ops(Numerics numerics, const Workload& workload,
                                       const CudaSettings& settings);

}  // namespace fathom
