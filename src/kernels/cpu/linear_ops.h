// Linear algebra of the fast CPU implementations: everything of Ops that is a matrix product, a
// norm or a copy. Attention is AttentionOps' business, which derives from this.
#pragma once

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/reference_ops.h"

namespace fathom {

class LinearOps : public ReferenceOps {
 public:
  LinearOps(Numerics numerics, const Workload& workload, ThreadPool& pool,
            const GemmKernels& kernels);

  std::string describe() const override;

 protected:
  const GemmKernels& kernels_;
};

}  // namespace fathom
