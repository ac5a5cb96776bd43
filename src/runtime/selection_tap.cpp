#include "runtime/selection_tap.h"

#include <algorithm>

#include "base/check.h"

namespace fathom {

SelectionTap::SelectionTap(Ops& inner, int layers, int rows, int topk)
    : TraceOps(inner), layers_(layers), rows_(rows), topk_(topk) {
  const size_t cells = static_cast<size_t>(layers) * static_cast<size_t>(rows);
  picks_.resize(cells * static_cast<size_t>(topk));
  counts_.resize(cells);
  watched_.reserve(static_cast<size_t>(rows));
}

void SelectionTap::watch(std::span<const int32_t> logit_rows, std::span<const Draw> draws) {
  FATHOM_CHECK(draws.size() <= logit_rows.size() && static_cast<int>(draws.size()) <= rows_,
               "{} draws for {} logit rows, room for {}", draws.size(), logit_rows.size(), rows_);
  watched_.clear();
  for (size_t row = 0; row < draws.size(); ++row)
    if (draws[row].keep_selection) watched_.push_back({static_cast<int>(row), logit_rows[row]});
}

std::span<const int32_t> SelectionTap::picked(int row, int layer) const {
  FATHOM_CHECK(row >= 0 && row < rows_ && layer >= 0 && layer < layers_,
               "picks of row {} of {}, layer {} of {}", row, rows_, layer, layers_);
  const size_t at = place(row, layer);
  return std::span(picks_).subspan(at * static_cast<size_t>(topk_),
                                   static_cast<size_t>(counts_[at]));
}

void SelectionTap::after(OpKind kind, std::span<const Tensor> results) {
  // Picks of the MTP block are not kept.
  if (kind != OpKind::index_topk || layer() >= layers_) return;
  const Tensor& picked = results[0];
  for (const Watched& w : watched_) {
    const int32_t* from = picked.row<int32_t>(w.token);
    const int32_t* end = std::find(from, from + topk_, -1);
    const size_t at = place(w.row, layer());
    std::copy(from, end, picks_.begin() + static_cast<int64_t>(at) * topk_);
    counts_[at] = static_cast<int32_t>(end - from);
  }
}

}  // namespace fathom
