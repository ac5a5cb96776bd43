// The link between ranks that compute one model together. Ops work on one rank alone; the forward
// pass calls all_reduce where each rank has computed its part of a sum over a split weight.
//
// Every rank of a group makes the same calls in the same order, with tensors of the same shapes. A
// call returns when this rank's result is complete (on a GPU: is queued on the rank's stream).
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "tensor/tensor.h"

namespace fathom {

class Ops;
class ProcessLink;

// Returns part `part` of [0, n), divided into `parts` parts as evenly as possible. If n < parts,
// some parts are empty.
struct PartRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};
constexpr PartRange part_of(int64_t n, int part, int parts) {
  return {n * part / parts, n * (part + 1) / parts};
}

// Input of the experts of a layer: the rows of one group, or those of all groups.
struct ExpertRows {
  Tensor hidden;   // [T, D]
  Tensor ids;      // [T, k] i32, the experts of each row; -1: none
  Tensor weights;  // [T, k] f32
};

// How ranks share experts: neighbours in groups of `group`, rank r with the experts
// part_of(experts, r, size).
struct ExpertSpread {
  int group = 1;
  int experts = 0;
  // The experts multiply FP8 codes: a link may quantise a row once and send that.
  bool coded = false;
};

// Size of one group's step: see Comm::agree.
struct GroupStep {
  int64_t rows = 0;
  bool padded = false;
};

// Thrown by exchanges after CommGroup::abort, with the reason given there.
class ExchangeEnded : public Error {
 public:
  using Error::Error;
};

// Thread-compatible: belongs to its rank's thread. After CommGroup::abort each call throws
// ExchangeEnded.
class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Replaces `x` [T, n], f32 or bf16, by its sum over all ranks, added in float32 in rank order and
  // rounded once: every rank gets the same bits.
  virtual void all_reduce(Tensor x) = 0;

  // The sum of `update` over all ranks joined with what the forward pass does with it:
  //   residual += sum; normed = rms_norm(residual)                         [T, D] each
  // Returns false and does nothing if the link has no such fused form; the caller then does both
  // steps one by one. Observers look between those steps, so an observed plan has no fused form.
  virtual bool all_reduce_add_rms_norm(Tensor normed, Tensor residual, Tensor update,
                                       const float* gain, float eps) {
    (void)normed, (void)residual, (void)update, (void)gain, (void)eps;
    return false;
  }

  // x [R, n]: each rank has filled its columns, part_of(n, rank, size); afterwards every rank has
  // all of x.
  virtual void all_gather_columns(Tensor x) = 0;

  // x [T, n]: rank t / block % size has row t; afterwards every rank has all rows.
  virtual void all_gather_rows(Tensor x, int block) = 0;

  // The next two work on groups of `group` consecutive ranks. The ranks of a group have the same
  // rows; each group has its own rows, perhaps none.

  // Copies `own` [T, n] of every group to `all`, one group after the other. Returns the first row
  // of each group in `all`, and as a last entry the number of rows; valid until the next call.
  virtual std::span<const int64_t> gather_groups(Tensor all, Tensor own, int group);

  // Replaces own [T, n] by the sum of `own` over the ranks of the group plus the group's rows of
  // `parts` [all rows, n] over all ranks. The rows are those that were gathered last. Sums are in
  // float32, in rank order, rounded once: every rank of a group gets the same bits.
  virtual void sum_groups(Tensor own, Tensor parts, int group);

  // The two exchanges around the experts of a layer. The tensors of `all`, `sum` and `parts` lie in
  // one block of memory, alike on every rank.

  // As gather_groups. A rank may be left without the hidden rows that choose none of its experts.
  virtual std::span<const int64_t> gather_expert_rows(const ExpertRows& all, const ExpertRows& own,
                                                      const ExpertSpread& spread);
  // As sum_groups. `ids` are those of the group's rows. The part of a rank is zero for rows that
  // choose none of its experts, so it may be left out.
  virtual void sum_expert_rows(Tensor sum, Tensor parts, Tensor ids, const ExpertSpread& spread);

  // Called before a step on GPUs, where the host must know the rows of a step before it is
  // computed. Every rank passes the size of its group's step. If the steps of all groups may be
  // padded, the result is the size of the largest, also for a group without work; else it is the
  // group's own.
  virtual GroupStep agree(const GroupStep& own, int group);
  // Throws ExchangeEnded if the group of ranks has been aborted.
  virtual void check() {}
};

// What the ranks of one process share. Thread-safe.
class CommGroup {
 public:
  virtual ~CommGroup() = default;
  // Returns the link of one rank. Called once per rank, on the rank's thread. Exchanges are in
  // order with the ops of `ops`, the rank's own.
  virtual std::unique_ptr<Comm> join(int rank, Ops* ops) = 0;
  // Ends all exchanges, waiting and future ones, with ExchangeEnded. The first reason is kept.
  virtual void abort(const std::string& why) = 0;
};

// One rank alone: nothing to exchange.
std::unique_ptr<Comm> make_solo_comm();

// Links ranks that are threads of this process, with tensors in the host's memory.
std::shared_ptr<CommGroup> make_thread_group(int ranks);

// Links `ranks` ranks of several processes, the same number of threads in each, in the order of the
// processes. The ranks of this process join. Tensors lie in the host's memory. Results are bit for
// bit those of the same number of threads of one process. `link` must outlive the group, and
// nothing else may use it during an exchange.
std::shared_ptr<CommGroup> make_process_group(ProcessLink& link, int ranks);

}  // namespace fathom
