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

// One rank: nothing to exchange.
std::unique_ptr<Comm> make_solo_comm();

}  // namespace fathom
