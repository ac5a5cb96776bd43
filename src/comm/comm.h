// The link between the ranks of a model-parallel group. Ops work on one rank alone; the forward
// pass calls all_reduce where each rank has computed its part of a sum over a split weight.
#pragma once

#include <memory>

#include "tensor/tensor.h"

namespace fathom {

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Replaces `x` by its sum over all ranks, added in rank order: every rank gets the same bits.
  virtual void all_reduce(Tensor x) = 0;
};

// The link of rank `rank` to the other `ranks` - 1. One rank has nothing to exchange. More than
// one is not built yet and stops the program: check_plan refuses it before.
std::unique_ptr<Comm> make_comm(int rank, int ranks);

}  // namespace fathom
