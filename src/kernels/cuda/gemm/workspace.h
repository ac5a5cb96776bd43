// Scratch of the products: a plain function of sizes, so that memory is planned without a GPU.
#pragma once

#include <cstddef>

namespace fathom::cuda {

// Bytes of Launch::workspace that fp8_gemm and fp8_grouped_gemm may use for up to `max_rows` rows
// and `experts` experts: none, since partial sums meet within a cluster.
constexpr size_t fp8_gemm_workspace(int /*max_rows*/, int /*experts*/) { return 0; }

}  // namespace fathom::cuda
