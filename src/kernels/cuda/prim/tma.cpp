#include "kernels/cuda/prim/tma.h"

#include "base/error.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// Looks up the driver's function at run time: a program linked against libcuda does not start
// without a driver.
Encode encoder() {
  static const Encode function = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found{};
    FATHOM_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000,
                                                 cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess || !f)
      fail("this CUDA driver has no cuTensorMapEncodeTiled: version 12 or later is needed");
    return reinterpret_cast<Encode>(f);
  }();
  return function;
}

CUtensorMapDataType type_of(MapType t) {
  switch (t) {
    case MapType::u8:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    case MapType::bf16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case MapType::f32:
      break;
  }
  return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

CUtensorMapSwizzle swizzle_of(int bytes) {
  return bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
         : bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
         : bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                       : CU_TENSOR_MAP_SWIZZLE_NONE;
}

}  // namespace

CUtensorMap make_tensor_map(const MapShape& s) {
  CUtensorMap map;
  const cuuint32_t ones[4] = {1, 1, 1, 1};
  CUresult r = encoder()(&map, type_of(s.type), static_cast<cuuint32_t>(s.rank),
                         const_cast<void*>(s.base), s.dims, s.strides, s.box, ones,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(s.swizzle),
                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r != CUDA_SUCCESS)
    fail(
        "CUDA: tensor map refused (error {}): base {}, dims {} {} {} {}, strides {} {} {}, box {} "
        "{} {} {}, swizzle {}",
        static_cast<int>(r), s.base, s.dims[0], s.dims[1], s.dims[2], s.dims[3], s.strides[0],
        s.strides[1], s.strides[2], s.box[0], s.box[1], s.box[2], s.box[3], s.swizzle);
  return map;
}

CUtensorMap make_matrix_map(const void* base, MapType type, uint64_t rows, uint64_t cols,
                            uint64_t stride, uint32_t box_rows, uint32_t box_cols, int swizzle) {
  MapShape s;
  s.base = base;
  s.type = type;
  s.dims[0] = cols;
  s.dims[1] = rows;
  s.strides[0] = stride;
  s.box[0] = box_cols;
  s.box[1] = box_rows;
  s.swizzle = swizzle;
  return make_tensor_map(s);
}

}  // namespace fathom::cuda
