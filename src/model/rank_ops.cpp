#include "model/rank_ops.h"

namespace fathom {

void RankOps::index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                         const BatchView& batch) {
  BatchView mine = batch;
  // With fewer tokens some rank would have none.
  const bool shared = batch.tokens > RowShare::kBlock * (comm_.size() - 1);
  if (shared) mine.index_rows = {comm_.rank(), comm_.size()};
  inner_.index_topk(picked, index_q, head_weight, kv, mine);
  if (shared) comm_.all_gather_rows(picked, RowShare::kBlock);
}

void RankOps::logits(Tensor out, Tensor hidden, const QWeight& head) {
  const PartRange own = part_of(out.row_size(), comm_.rank(), comm_.size());
  FATHOM_CHECK(head.rows == own.size(), "{} rows of the head, {} are this rank's", head.rows,
               own.size());
  if (own.size() > 0) inner_.logits(out.columns(own.begin, own.end), hidden, head);
  comm_.all_gather_columns(out);
}

}  // namespace fathom
