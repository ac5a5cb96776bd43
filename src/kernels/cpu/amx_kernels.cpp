// The tables for AMX: those for AVX-512 with the products that tiles compute. In a file of its own,
// because this copying runs at start on every processor and the files of kernels may not.
#include "kernels/cpu/amx_state.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/gemm.h"

#if defined(__x86_64__)
namespace fathom {

constinit thread_local uint32_t current_tile_shapes = 0;

const GemmKernels kGemmAmx = [] {
  GemmKernels k = kGemmAvx512;
  k.name = "amx";
  k.bf16 = kTileProducts;
  return k;
}();

const AttentionKernels kAttentionAmx = [] {
  AttentionKernels k = kAttentionAvx512;
  k.name = "amx";
  k.bf16.product = multiply_panel_by_tiles;
  k.bf16.mix_codes = nullptr;
  k.mixes_pairs = false;
  return k;
}();

}  // namespace fathom
#endif
