#include "runtime/evaluator.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/error.h"

namespace fathom {
namespace {

// A plan for a single sequence that uses the whole context.
ComputePlan plan_of(const EvalOptions& o) {
  ComputePlan p = o.compute;
  if (p.context < 1) fail("a context of {} tokens: at least 1 is needed", p.context);
  p.sequences = 1;
  p.cache_pages = static_cast<int>(pages_for(p.context));
  FATHOM_CHECK(o.pages.empty() || static_cast<int>(o.pages.size()) == p.cache_pages,
               "a page table of {} for {} pages", o.pages.size(), p.cache_pages);
  return p;
}

RankWrapper wrapper_of(const EvalOptions& o) {
  return [&o](Ops& ops, int rank) -> std::unique_ptr<Ops> {
    if (rank == 0) return o.wrap ? o.wrap(ops) : nullptr;
    return o.wrap_others ? o.wrap_others(ops, rank) : nullptr;
  };
}

}  // namespace

Evaluator::Evaluator(const Config& config, const RankWeights& weights, const EvalOptions& options)
    : config_(config),
      ranks_(config, weights, plan_of(options),
             options.record_ranks ? RankWrapper() : wrapper_of(options), options.record_ranks),
      batch_(options.compute.step_tokens, 1, ranks_.first().plan().cache_pages),
      pages_(options.pages) {
  if (!pages_.empty()) return;
  pages_.resize(static_cast<size_t>(ranks_.first().plan().cache_pages));
  std::iota(pages_.begin(), pages_.end(), 0);
}

void Evaluator::feed(std::span<const int32_t> ids, std::span<const int64_t> rows,
                     const RowSink& sink, bool decode) {
  const size_t chunk = decode ? 1 : static_cast<size_t>(ranks_.first().plan().step_tokens);
  for (size_t at = 0; at < ids.size(); at += chunk) {
    size_t n = std::min(chunk, ids.size() - at);
    int32_t next = at + n < ids.size() ? ids[at + n] : 0;
    step(ids.subspan(at, n), next, -1, {}, decode, rows, sink);
  }
}

void Evaluator::feed_hidden(int first, Tensor hidden, std::span<const int64_t> rows,
                            const RowSink& sink) {
  const int64_t chunk = ranks_.first().plan().step_tokens;
  std::vector<int32_t> no_ids(static_cast<size_t>(chunk), 0);
  for (int64_t at = 0; at < hidden.rows(); at += chunk) {
    int64_t n = std::min(chunk, hidden.rows() - at);
    step(std::span(no_ids).first(static_cast<size_t>(n)), 0, first, hidden.slice(at, at + n), false,
         rows, sink);
  }
}

// Runs one step of the model. first_layer < 0: from the ids. `next_id` is the token after the last
// of `ids`.
void Evaluator::step(std::span<const int32_t> ids, int32_t next_id, int first_layer, Tensor hidden,
                     bool decode, std::span<const int64_t> rows, const RowSink& sink) {
  int64_t first = position_, end = first + static_cast<int64_t>(ids.size());
  const ComputePlan& plan = ranks_.first().plan();
  if (end > plan.context) fail("{} tokens do not fit a context of {}", end, plan.context);
  auto begin_row = std::lower_bound(rows.begin(), rows.end(), first);
  auto end_row = std::lower_bound(begin_row, rows.end(), end);
  wanted_.assign(begin_row, end_row);

  batch_.clear();
  batch_.add(ids, first, std::span(pages_).first(static_cast<size_t>(pages_for(end))), decode,
             ranks_.first().forms());
  for (int64_t row : wanted_) batch_.want_logits(static_cast<int>(row - first));
  deliver(first_layer < 0 ? ranks_.step(batch_) : ranks_.step_from(first_layer, hidden, batch_),
          sink);
  if (plan.mtp) {
    next_ids_.assign(ids.begin() + 1, ids.end());
    next_ids_.push_back(next_id);
    deliver(ranks_.mtp(batch_, next_ids_), mtp_sink_);
  }
  position_ = end;
}

void Evaluator::run_mtp_again() { deliver(ranks_.mtp(batch_, next_ids_), mtp_sink_); }

void Evaluator::deliver(Tensor logits, const RowSink& sink) {
  const size_t vocab = static_cast<size_t>(config_.vocab);
  host_logits_.resize(std::max(host_logits_.size(), wanted_.size() * vocab));
  if (!wanted_.empty())
    ops().download(host_logits_.data(), logits.data, wanted_.size() * vocab * sizeof(float));
  for (size_t i = 0; i < wanted_.size() && sink; ++i)
    sink(wanted_[i], {host_logits_.data() + i * vocab, vocab});
}

}  // namespace fathom
