// The measured limits of this machine, which `bench` compares its figures with.
//
// The rate of products is that of the best multiply-add instruction on registers alone. No matrix
// product reaches it, since a product also loads its operands. bench/gemm_bench measures what a
// good library (oneDNN, a bf16 product of 128 rows) reaches on the same machine.
#pragma once

#include <cstdint>
#include <string>

#include "base/thread_pool.h"
#include "numerics/modes.h"

namespace fathom {

struct MachineLimits {
  std::string processor;         // model name
  int64_t last_level_cache = 0;  // bytes; 0 if unknown
  int threads = 0;
  double load = 0;          // load average of the last minute before measuring
  int64_t buffer = 0;       // bytes that are read repeatedly to measure read_per_s
  double read_per_s = 0;    // bytes, streamed from memory by all threads
  double flops_per_s = 0;   // products as in the given numerics, all threads
  std::string instruction;  // the instruction that computes them
};

std::string processor_name();
int64_t last_level_cache_bytes();
// Returns the size of a buffer much larger than the last-level cache, for `measure_limits`.
int64_t read_buffer_bytes(int64_t last_level_cache);

// Takes the best of several short runs, as other programs can only slow one down. Takes about half
// a second with the default buffer (buffer_bytes = 0).
MachineLimits measure_limits(Numerics numerics, ThreadPool& pool, int64_t buffer_bytes = 0);

}  // namespace fathom
