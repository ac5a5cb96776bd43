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
  int64_t last_level_cache = 0;  // bytes; 0 when the system does not say
  int threads = 0;
  double load = 0;     // average of the last minute before measuring: other programs take a share
  int64_t buffer = 0;  // bytes that are read repeatedly to measure read_per_s
  double read_per_s = 0;    // bytes, streamed from memory by all threads
  double flops_per_s = 0;   // products of the kind the numerics are made of, all threads
  std::string instruction;  // the one that does them
};

std::string processor_name();
int64_t last_level_cache_bytes();
// A buffer well beyond the last-level cache, for `measure_limits`.
int64_t read_buffer_bytes(int64_t last_level_cache);

// Best of several short runs: other programs can only take away. About half a second with the
// default buffer (buffer_bytes = 0).
MachineLimits measure_limits(Numerics numerics, ThreadPool& pool, int64_t buffer_bytes = 0);

}  // namespace fathom
