#include "runtime/evaluator.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "kernels/trace_ops.h"

namespace fathom {
namespace {

ForwardOptions forward_options(const EvalOptions& o, int64_t max_context) {
  ForwardOptions f;
  f.numerics = o.numerics;
  f.attention = o.attention;
  f.max_tokens = o.chunk;
  f.max_context = max_context;
  return f;
}

GpuOptions gpu_options(const EvalOptions& o) {
  GpuOptions g;
  g.observed = o.observed;
  g.batch_invariant = o.batch_invariant;
  g.max_sequences = 1;
  return g;
}

}  // namespace

Evaluator::Evaluator(const Config& config, const Weights& weights, int64_t max_context,
                     const EvalOptions& options)
    : config_(config),
      options_(options),
      max_context_(max_context),
      pool_(options.threads),
      inner_ops_(make_ops({options.device, options.kernels, gpu_options(options)}, options.numerics,
                          workload_of(config, forward_options(options, max_context)), pool_)),
      ops_(options.wrap ? options.wrap(*inner_ops_) : std::make_unique<TraceOps>(*inner_ops_)),
      comm_(make_solo_comm()),
      cache_(kv_shape(config, options.numerics, options.kv, options.mtp),
             static_cast<int>(pages_for(max_context)), ops_->memory()),
      forward_(config, weights, *ops_, *comm_, forward_options(options, max_context)),
      forms_(form_policy(config, options.attention, options.numerics, options.batch_invariant)),
      batch_(options.chunk, 1, static_cast<int>(pages_for(max_context))),
      pages_(static_cast<size_t>(pages_for(max_context))) {
  if (options.mtp && !weights.mtp) fail("this checkpoint has no MTP layer");
  std::iota(pages_.begin(), pages_.end(), 0);
  FATHOM_CHECK(options.pages.empty() || options.pages.size() == pages_.size(),
               "a page table of {} for {} pages", options.pages.size(), pages_.size());
  if (!options.pages.empty()) pages_ = options.pages;
}

std::string Evaluator::describe() const {
  return fmt::format("{}, {} numerics, {} cache, {} attention", inner_ops_->describe(),
                     name_of(options_.numerics), name_of(cache_.shape().latent_format),
                     name_of(config_.has_indexer() ? options_.attention : AttentionMode::dense));
}

void Evaluator::feed(std::span<const int32_t> ids, std::span<const int64_t> rows,
                     const RowSink& sink, bool decode) {
  const size_t chunk = decode ? 1 : static_cast<size_t>(options_.chunk);
  for (size_t at = 0; at < ids.size(); at += chunk) {
    size_t n = std::min(chunk, ids.size() - at);
    int32_t next = at + n < ids.size() ? ids[at + n] : 0;
    step(ids.subspan(at, n), next, -1, {}, decode, rows, sink);
  }
}

void Evaluator::feed_hidden(int first, Tensor hidden, std::span<const int64_t> rows,
                            const RowSink& sink) {
  std::vector<int32_t> no_ids(static_cast<size_t>(options_.chunk), 0);
  for (int64_t at = 0; at < hidden.rows(); at += options_.chunk) {
    int64_t n = std::min<int64_t>(options_.chunk, hidden.rows() - at);
    step(std::span(no_ids).first(static_cast<size_t>(n)), 0, first, hidden.slice(at, at + n), false,
         rows, sink);
  }
}

// One step of the model; first_layer < 0: from the ids. `next_id` follows the last of `ids`.
void Evaluator::step(std::span<const int32_t> ids, int32_t next_id, int first_layer, Tensor hidden,
                     bool decode, std::span<const int64_t> rows, const RowSink& sink) {
  int64_t first = position_, end = first + static_cast<int64_t>(ids.size());
  if (end > max_context_) fail("{} tokens do not fit a context of {}", end, max_context_);
  if (on_step_) on_step_(first, static_cast<int>(ids.size()));
  auto begin_row = std::lower_bound(rows.begin(), rows.end(), first);
  auto end_row = std::lower_bound(begin_row, rows.end(), end);
  std::vector<int64_t> wanted(begin_row, end_row);

  batch_.clear();
  batch_.add(ids, first, std::span(pages_).first(static_cast<size_t>(pages_for(end))), decode,
             forms_);
  for (int64_t row : wanted) batch_.want_logits(static_cast<int>(row - first));
  int64_t n = static_cast<int64_t>(wanted.size());
  const size_t vocab = static_cast<size_t>(config_.vocab), count = static_cast<size_t>(n) * vocab;
  if (logits_.size() < count * sizeof(float)) {
    logits_ = Buffer(count * sizeof(float), ops_->memory());
    host_logits_.resize(count);
  }
  Tensor logits(logits_.data(), DType::f32, {n, config_.vocab});
  auto deliver = [&](const RowSink& to) {
    if (n > 0) ops_->download(host_logits_.data(), logits_.data(), count * sizeof(float));
    for (size_t i = 0; i < wanted.size() && to; ++i)
      to(wanted[i], {host_logits_.data() + i * vocab, vocab});
  };
  if (first_layer < 0)
    forward_.step(batch_, cache_.layers(), logits);
  else
    forward_.step_from(first_layer, hidden, batch_, cache_.layers(), logits);
  deliver(sink);
  if (options_.mtp) {
    std::vector<int32_t> next(ids.begin() + 1, ids.end());
    next.push_back(next_id);
    forward_.mtp(batch_, next, cache_.layers(), logits);
    deliver(mtp_sink_);
  }
  position_ = end;
}

}  // namespace fathom
