// The implementations of Ops for a CPU. The best one that the processor can run is used.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/ops.h"

namespace fathom {

struct CpuKernels {
  std::string_view name;   // what --kernels takes
  std::string_view needs;  // in words, for the user
  bool (*usable)();
  std::unique_ptr<Ops> (*make)(Numerics, const Workload&, ThreadPool&);
  bool reads_words = false;  // products with few rows are faster with QWeight::words
};

// "amx", "avx512", "avx512f32", "avx2", "reference": best first; the reference is always usable.
std::span<const CpuKernels> cpu_kernels();

// The first usable implementation, or the named one. Throws Error when the name is unknown or when
// the processor cannot run it.
const CpuKernels& pick_cpu_kernels(std::string_view forced = {});

// Plain loops with float64 sums, for any dims. The other implementations are compared with it.
std::unique_ptr<Ops> make_reference_ops(Numerics, const Workload&, ThreadPool&);

}  // namespace fathom
