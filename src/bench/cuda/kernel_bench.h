// Times single kernels under the conditions of a running engine: cold L2 (inputs rotate through
// sets that together exceed it), launches inside a CUDA graph, medians over replays. Next to each
// time it shows the floor: the least time by the ceilings measured in the same run.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/prim/random_fill.h"
#include "tensor/buffer.h"

namespace fathom::cuda {

// The highest rates of this card, measured in this run.
struct Ceilings {
  double read_gbs = 0;     // GB/s, a large read
  double copy_gbs = 0;     // GB/s, read + write of a large copy
  double bf16_tflops = 0;  // wgmma back to back on operands that rest in shared memory
  double fp8_tflops = 0;
};

struct BenchRow {
  std::string family, shape;
  double us = 0;         // median of one launch
  double flop = 0;       // useful operations
  double bytes = 0;      // each input read once, each output written once
  double floor_us = 0;   // max of bytes and operations over their ceilings
  double anchor_us = 0;  // best public kernel on an H100 (docs/performance.md); 0: none known
};

class BenchContext {
 public:
  // Measures the ceilings. `only`: families and shapes that contain this text; empty: all.
  explicit BenchContext(std::string only = {});
  ~BenchContext();
  BenchContext(const BenchContext&) = delete;
  BenchContext& operator=(const BenchContext&) = delete;

  // Whether this row is wanted. Call it before preparing the row's inputs.
  bool wanted(std::string_view family, std::string_view shape) const;

  const Ceilings& ceilings() const { return ceilings_; }
  // Stream, processors and a workspace of `workspace_bytes()` for the kernels under test.
  const Launch& launch() const { return launch_; }
  size_t workspace_bytes() const { return launch_.workspace_bytes; }

  // Returns how many sets of inputs of `bytes` bytes exceed the L2 cache (1 .. 64).
  int sets_for(double bytes) const;

  // Returns the median microseconds of one call of run(launch, set). `set` cycles through 0 .. sets
  // - 1 inside a graph of at least `sets` launches, which is replayed several times.
  double time(int sets, const std::function<void(const Launch&, int set)>& run);

  enum class Math { fp8, bf16 };
  // Keeps and prints a row. The floor follows from flop (at the ceiling of `math`) and bytes.
  void report(std::string family, std::string shape, double us, double flop, Math math,
              double bytes, double anchor_us = 0);
  // The same for a kernel whose floor is not the memory rate but `bytes` at `gbs` GB/s.
  void report_at(std::string family, std::string shape, double us, double bytes, double gbs,
                 double anchor_us = 0);
  const std::vector<BenchRow>& rows() const { return rows_; }

 private:
  void keep(BenchRow row);

  std::string only_;
  Launch launch_;
  Buffer workspace_;
  Ceilings ceilings_;
  std::vector<BenchRow> rows_;
};

Ceilings measure_ceilings(const Launch& launch);

}  // namespace fathom::cuda
