// Ranks of a model-parallel group. Ops stay local; the forward pass calls these where partial sums
// of a split weight meet.
#pragma once

#include <memory>

#include "tensor/tensor.h"

namespace fathom {

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Sums `x` over all ranks, in rank order (every rank gets the same bits), in place.
  virtual void all_reduce(Tensor x) = 0;
};

// The link of rank `rank` to the other `ranks` - 1. One rank has nothing to exchange. More than
// one is not built yet and stops the program: check_plan refuses it before.
std::unique_ptr<Comm> make_comm(int rank, int ranks);

}  // namespace fathom
