#include "selfcheck/rig.h"

#include <algorithm>

#include "kernels/cpu_ops.h"
#include "selfcheck/rows.h"

namespace fathom {
namespace {

// Several decorators as one, the first outermost.
class OpsStack final : public TraceOps {
 public:
  explicit OpsStack(std::vector<std::unique_ptr<Ops>> parts)
      : TraceOps(*parts.front()), parts_(std::move(parts)) {}

 private:
  std::vector<std::unique_ptr<Ops>> parts_;
};

// Whether fp8 rows of `n` values keep their values when they are read and quantised again. A group
// whose greatest code is 224 may get half the scale and doubled codes. These are the same values,
// so values are compared, not bytes. Without ue8m0 the scale is amax / 448 and may change by an
// ulp; the codes may not.
bool survives_requantising(const std::byte* codes, const std::byte* scales, int64_t n, bool ue8m0) {
  const int64_t bytes = n + 4 * ((n + kFp8Block - 1) / kFp8Block);
  std::vector<std::byte> row(codes, codes + n);
  row.insert(row.end(), scales, scales + (bytes - n));
  std::vector<std::byte> again(static_cast<size_t>(bytes));
  std::vector<float> value(static_cast<size_t>(n));
  auto read = [&](const std::byte* p, int64_t i) {
    return fp8_to_float(static_cast<uint8_t>(p[i])) * fp8_row_scale(p, n, i / kFp8Block);
  };
  for (int64_t i = 0; i < n; ++i) value[static_cast<size_t>(i)] = read(row.data(), i);
  write_fp8_row(again.data(), value.data(), n, ue8m0);
  if (!ue8m0) return std::equal(codes, codes + n, again.begin());
  for (int64_t i = 0; i < n; ++i)
    if (read(again.data(), i) != value[static_cast<size_t>(i)]) return false;
  return true;
}

}  // namespace

void RecordOps::rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) {
  inner_.rope_query(q, batch, rope);
  if (record.cos.empty()) {
    int64_t n = rope.positions * (rope.dim / 2);
    record.cos.assign(rope.cos, rope.cos + n);
    record.sin.assign(rope.sin, rope.sin + n);
  }
}

void RecordOps::append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                              const BatchView& batch, const RopeTable& rope) {
  inner_.append_latent(kv, kv_a, gain, eps, batch, rope);
  if (kv.latent_format != KvFormat::fp8) return;
  for (int t = 0; t < batch.tokens; ++t) {
    const std::byte* row = kv.latent_row(batch.cache_row(t, batch.positions[t]));
    ++record.latent_rows;
    record.changed_rows +=
        !survives_requantising(row, row + kv.latent_dim, kv.latent_dim, kv.ue8m0);
  }
}

void RecordOps::append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                                 const BatchView& batch, const RopeTable& rope) {
  inner_.append_index_key(kv, k, norm, batch, rope);
  if (kv.index_format != KvFormat::fp8) return;
  for (int t = 0; t < batch.tokens; ++t) {
    const int64_t row = batch.cache_row(t, batch.positions[t]);
    ++record.index_rows;
    record.changed_rows +=
        !survives_requantising(kv.index_row(row), kv.index_scales(row), kv.index_dim, kv.ue8m0);
  }
}

void RecordOps::attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                const KvView& kv, const BatchView& batch, float scale) {
  note_scale(scale);
  inner_.attend_expanded(out, q, up, picked, kv, batch, scale);
}

void RecordOps::attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                const KvView& kv, const BatchView& batch, float scale) {
  note_scale(scale);
  inner_.attend_absorbed(out, q, up, picked, kv, batch, scale);
}

void RecordOps::note_scale(float scale) {
  if (std::find(record.scales.begin(), record.scales.end(), scale) == record.scales.end())
    record.scales.push_back(scale);
}

// Picks and experts: rows of indices, one a token.
void RecordOps::after(OpKind kind, std::span<const Tensor> results) {
  if (kind != OpKind::index_topk && kind != OpKind::route) return;
  std::vector<int32_t>& to = kind == OpKind::route ? record.experts : record.picked;
  const Tensor& ids = results[0];
  for (int64_t t = 0; t < ids.rows(); ++t)
    to.insert(to.end(), ids.row<int32_t>(t), ids.row<int32_t>(t) + ids.row_size());
}

Rig::Rig(const Config& config, const Weights& weights, const RigOptions& options) {
  EvalOptions eval = options.eval;
  eval.wrap = [&](Ops& kernels) -> std::unique_ptr<Ops> {
    std::vector<std::unique_ptr<Ops>> parts;
    auto record = std::make_unique<RecordOps>(kernels);
    record_ = record.get();
    parts.push_back(std::move(record));
    if (options.eval.wrap) parts.insert(parts.begin(), options.eval.wrap(*parts.front()));
    if (options.compare) {
      auto compare =
          std::make_unique<CompareOps>(*parts.front(), eval.compute.numerics, *options.compare);
      compare_ = compare.get();
      parts.insert(parts.begin(), std::move(compare));
    }
    if (options.observer) parts.insert(parts.begin(), options.observer(*parts.front()));
    return std::make_unique<OpsStack>(std::move(parts));
  };
  evaluator_ = std::make_unique<Evaluator>(config, weights, eval);
  if (!compare_) return;
  reference_ = make_reference_ops(eval.compute.numerics, workload_of(config, eval.compute),
                                  evaluator_->pool());
  compare_->set_reference(*reference_);
}

LogitRows Rig::run(std::span<const int32_t> ids, std::vector<int> pieces, int64_t decode_from,
                   std::span<const int64_t> rows) {
  LogitRows out;
  record_->record.picked.clear();
  record_->record.experts.clear();
  auto keep = [&](int64_t position, std::span<const float> logits) {
    out[position].assign(logits.begin(), logits.end());
  };
  evaluator_->reset();
  size_t prefill = std::min(ids.size(), static_cast<size_t>(decode_from)), piece = 0;
  for (size_t at = 0; at < prefill;) {
    size_t n = std::min(prefill - at, static_cast<size_t>(pieces[piece]));
    evaluator_->feed(ids.subspan(at, n), rows, keep);
    at += n;
    piece = std::min(piece + 1, pieces.size() - 1);
  }
  if (prefill < ids.size()) evaluator_->feed(ids.subspan(prefill), rows, keep, true);
  return out;
}

}  // namespace fathom
