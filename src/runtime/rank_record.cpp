#include "runtime/rank_record.h"

namespace fathom {
namespace {

void extend_by_rows(PageKey& key, const Tensor& x) {
  const size_t size = size_of(x.dtype), bytes = static_cast<size_t>(x.row_size()) * size;
  for (int64_t t = 0; t < x.rows(); ++t) {
    const auto* row =
        static_cast<const std::byte*>(x.data) + static_cast<size_t>(t * x.row_stride) * size;
    const PageKey one = digest(row, bytes);
    key = extended(extended(key, one.a), one.b);
  }
}

}  // namespace

void RankRecorder::after(OpKind kind, std::span<const Tensor> results) {
  if (kind == OpKind::index_topk) extend_by_rows(record_.picked, results[0]);
  if (kind == OpKind::route) extend_by_rows(record_.experts, results[0]);
  if (kind == OpKind::add_rms_norm) extend_by_rows(record_.sums, results[1]);
}

}  // namespace fathom
