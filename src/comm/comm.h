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

// Part `part` of [0, n) in `parts` parts that are as even as whole numbers allow. A part is empty
// where n is less than `parts`.
struct PartRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};
constexpr PartRange part_of(int64_t n, int part, int parts) {
  return {n * part / parts, n * (part + 1) / parts};
}

// What the experts of a layer are given: the rows of one group, or those of all.
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

// What one group brings to a step: see Comm::agree.
struct GroupStep {
  int64_t rows = 0;
  bool padded = false;
};

// What an exchange throws once its group has been broken off (CommGroup::abort): why that was.
class ExchangeEnded : public Error {
 public:
  using Error::Error;
};

// Thread-compatible: belongs to its rank's thread. Each call throws ExchangeEnded once the group
// has been broken off.
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
  // False where there is no such form, and nothing was done: the caller then takes the two steps
  // apart. Observers look between those steps, so an observed plan has no such form.
  virtual bool all_reduce_add_rms_norm(Tensor normed, Tensor residual, Tensor update,
                                       const float* gain, float eps) {
    (void)normed, (void)residual, (void)update, (void)gain, (void)eps;
    return false;
  }

  // x [R, n]: each rank has filled its columns, part_of(n, rank, size); afterwards every rank has
  // all of x.
  virtual void all_gather_columns(Tensor x) = 0;

  // x [T, n]: row t is known to rank t / block % size; afterwards to every rank.
  virtual void all_gather_rows(Tensor x, int block) = 0;

  // For ranks in groups of `group` neighbours. The ranks of a group hold the same rows, other
  // groups others, of different numbers, perhaps none.

  // own [T, n]: `all` gets the rows of every group, one group after the other. Returns where the
  // rows of each group begin in it, and after them their number; valid until the next call.
  virtual std::span<const int64_t> gather_groups(Tensor all, Tensor own, int group);

  // own [T, n] becomes the sum of `own` over the ranks of the group and of `parts` [all rows, n]
  // over all ranks, of the rows that are the group's: in float32, in rank order, rounded once.
  // Every rank of a group gets the same bits.
  virtual void sum_groups(Tensor own, Tensor parts, int group);

  // The two exchanges around the experts of a layer. The tensors of `all`, `sum` and `parts` lie in
  // one block of memory, alike on every rank.

  // As gather_groups. A rank may be left without the hidden rows that choose none of its experts.
  virtual std::span<const int64_t> gather_expert_rows(const ExpertRows& all, const ExpertRows& own,
                                                      const ExpertSpread& spread);
  // As sum_groups. `ids`: of the group's rows; what a rank has for a row that chooses none of its
  // experts is zero, and may be left out.
  virtual void sum_expert_rows(Tensor sum, Tensor parts, Tensor ids, const ExpertSpread& spread);

  // Before a step, where the rows of a step are counted on the host before they are computed
  // (GPUs): every rank says what its group brings. If all groups' steps may be padded, each is to
  // bring as many rows as the one that has most, a group without work too; else each what it has.
  virtual GroupStep agree(const GroupStep& own, int group);
  // Throws ExchangeEnded if the group of ranks has been broken off.
  virtual void check() {}
};

// What the ranks of one process share. Thread-safe.
class CommGroup {
 public:
  virtual ~CommGroup() = default;
  // The link of one rank; called once for each, on its own thread. Exchanges come in order with
  // `ops`, the rank's own.
  virtual std::unique_ptr<Comm> join(int rank, Ops* ops) = 0;
  // Ends every exchange, those that wait and those to come. The first reason stays.
  virtual void abort(const std::string& why) = 0;
};

// One rank alone: nothing to exchange.
std::unique_ptr<Comm> make_solo_comm();

// Ranks that are threads of this process, with tensors in the host's memory.
std::shared_ptr<CommGroup> make_thread_group(int ranks);

// `ranks` of several processes, as many threads in each, in the order of the processes; those of
// this process join. Tensors lie in the host's memory. Results are bit for bit those of as many
// threads of one process. `link` must outlive the group, and while an exchange is on nobody else
// uses it.
std::shared_ptr<CommGroup> make_process_group(ProcessLink& link, int ranks);

}  // namespace fathom
