// Host side of the FP8 kernels for many rows: tensor maps and launch. Included once a tile.
#pragma once

#include "kernels/cuda/gemm/fp8_many.cuh"

namespace fathom::cuda {

template <class C, bool kGrouped>
void launch_many(const Fp8Rows& a, const uint8_t* weights, int64_t weight_rows, ManyArgs args,
                 int ctas, const Launch& l) {
  static_assert(C::kStages >= 3);
  const uint64_t k = static_cast<uint64_t>(a.k);
  const CUtensorMap row_map =
      make_matrix_map(a.codes, MapType::u8, static_cast<uint64_t>(a.rows), k, k, C::kRowBox, 128);
  // Clusters that share rows load them in halves, and experts end anywhere: those have no tail.
  constexpr bool kTail = !kGrouped && C::kShared != Shared::rows;
  args.tail_rows = kTail ? a.rows % kChunk : 0;
  const CUtensorMap tail_map =
      args.tail_rows == 0 ? row_map
                          : make_matrix_map(a.codes, MapType::u8, static_cast<uint64_t>(a.rows), k,
                                            k, static_cast<uint32_t>(args.tail_rows), 128);
  const CUtensorMap weight_map = make_matrix_map(
      weights, MapType::u8, static_cast<uint64_t>(weight_rows), k, k, C::kWeightBox, 128);
  const CUtensorMap scale_map =
      make_matrix_map(a.scales, MapType::f32, k / 128, static_cast<uint64_t>(a.rows),
                      static_cast<uint64_t>(a.scale_stride) * 4, 1, kScaleBox, 0);
  for (int i = 0; i < args.segments; ++i) {
    const OutSegment& out = args.out[i];
    if (kGrouped || out.f32) continue;
    args.out_maps[i] =
        make_matrix_map(out.data, MapType::bf16, static_cast<uint64_t>(a.rows),
                        static_cast<uint64_t>(out.n_end - out.n_begin),
                        static_cast<uint64_t>(out.stride) * 2, kChunk, C::kPiece, C::kPiece * 2);
  }
  const size_t list = kGrouped ? 8 * (static_cast<size_t>(args.schedule.experts) + 1) : 0;
  launch_kernel(l, fp8_many_kernel<C, kGrouped>, dim3(static_cast<unsigned>(ctas)),
                dim3(C::kThreads), sizeof(ManySmem<C>) + list, C::kCluster, row_map, tail_map,
                weight_map, scale_map, args);
}

// One a file: compiling a kernel takes a while.
void launch_m192n128(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l);
void launch_m256n128(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l);
void launch_m128n192(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l);
void launch_m128n128(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l);
void launch_m128n96(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l);
void launch_m128n64(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l);
void launch_m64n64(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l);
void launch_m64n32(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l);

}  // namespace fathom::cuda
