#include "kernels/cpu/linear_ops.h"

namespace fathom {

LinearOps::LinearOps(Numerics numerics, const Workload& workload, ThreadPool& pool,
                     const GemmKernels& kernels)
    : ReferenceOps(numerics, workload, pool), kernels_(kernels) {}

std::string LinearOps::describe() const {
  return fmt::format("{} kernels, {} threads", kernels_.name, pool_.size());
}

}  // namespace fathom
