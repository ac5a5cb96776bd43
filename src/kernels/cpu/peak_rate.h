// Peak rates of this processor, one table per instruction set: loops that only read memory, and
// loops that only multiply in registers. `bench` measures its limits with them. Like gemm.h: plain
// data and function pointers only, because the files that define the tables are compiled for
// processors that others do not have.
#pragma once

#include <cstdint>

namespace fathom {

// One multiply-add instruction, kept busy. `run` does `rounds` rounds on enough independent
// accumulators to hide the instruction's latency; its result only keeps a compiler from dropping
// the work.
struct PeakProduct {
  const char* instruction;
  float (*run)(int64_t rounds);
  int64_t flops_per_round;
};

struct PeakKernels {
  const char* name;
  // Reads [data, data + bytes), 64-byte aligned, a multiple of 4096 bytes.
  uint64_t (*read)(const void* data, int64_t bytes);
  PeakProduct bf16;  // bf16 inputs, float32 sums; the f32 one where there is no such instruction
  PeakProduct f32;
};

extern const PeakKernels kPeakAmx;
extern const PeakKernels kPeakAvx512;
extern const PeakKernels kPeakAvx512F32;
extern const PeakKernels kPeakAvx2;
extern const PeakKernels kPeakPlain;  // any processor

// The best table that this processor can run.
const PeakKernels& peak_kernels();

}  // namespace fathom
