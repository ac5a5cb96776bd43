// The MLPs of LinearOps: dense ones are a mixture of one expert that every token goes to.
#include <algorithm>

#include "kernels/cpu/linear_ops.h"
#include "kernels/cpu/rows.h"

namespace fathom {
namespace {

Tensor matrix(const Buffer& memory, DType dtype, int64_t rows, int64_t columns) {
  return Tensor(memory.data(), dtype, {rows, columns});
}

bool same_shape(const MlpWeights& a, int64_t hidden) {
  return a.gate.rows == a.up.rows && a.gate.rows == a.down.cols && a.gate.cols == hidden &&
         a.up.cols == hidden && a.down.rows == hidden &&
         a.gate.row_offset % kStripRows == a.up.row_offset % kStripRows;
}

}  // namespace

template <class Body>
void LinearOps::in_groups(int64_t begin, int64_t end, QWeight MlpWeights::*which, Body body) const {
  int64_t offset = 0;
  for (const Group& g : groups_) {
    if (offset >= end) return;
    int64_t strips = Product::strips(g.w->*which);
    int64_t from = std::max(begin - offset, int64_t{0}), to = std::min(end - offset, strips);
    if (from < to) body(g, from, to);
    offset += strips;
  }
}

void LinearOps::plan_runs(QWeight MlpWeights::*which) {
  runs_.clear();
  for (const Group& g : groups_) runs_.push_back({g.begin, g.rows, (g.w->*which).cols});
}

void LinearOps::gate_up(Form form, Inputs x, Tensor act) {
  plan_runs(&MlpWeights::gate);
  x = in_blocks(form, x);
  int64_t strips = 0, bytes = 0, most = 0;
  for (const Group& g : groups_) {
    strips += Product::strips(g.w->gate);
    bytes += 2 * g.w->gate.bytes();
    most = std::max(most, g.rows);
  }
  std::fill(interleaved_key_.begin(), interleaved_key_.end(), -1);
  over_strips(
      form, strips, bytes, most, groups_are_even(), [&](int64_t begin, int64_t end, int thread) {
        const ProductScratch& scratch = scratch_[static_cast<size_t>(thread)];
        Outputs gate{scratch.tile(0), ProductScratch::kTileStride, false};
        Outputs up{scratch.tile(1), ProductScratch::kTileStride, false};
        in_groups(begin, end, &MlpWeights::gate, [&](const Group& g, int64_t from, int64_t to) {
          const int64_t strips_at_once = product_.panel_strips(form);
          for (int64_t s = from; s < to; s += strips_at_once) {
            int64_t stop = std::min(s + strips_at_once, to),
                    column = Product::first_row(g.w->gate, s);
            int64_t columns =
                std::min(Product::first_row(g.w->gate, stop), g.w->gate.rows) - column;
            for (int64_t row = 0; row < g.rows; row += kRowChunk) {
              int64_t rows = std::min<int64_t>(kRowChunk, g.rows - row), at = g.begin + row;
              Inputs in = interleaved(form, x.slice(at, rows), g.w->gate.cols, thread,
                                      has_words(g.w->gate) || has_words(g.w->up), at);
              product_.run(g.w->gate, form, s, stop, in, gate, scratch);
              product_.run(g.w->up, form, s, stop, in, up, scratch);
              Outputs out{act.data, act.row_stride, act.dtype == DType::bf16};
              kernels_.silu({.gate = scratch.tile(0),
                             .up = scratch.tile(1),
                             .stride = ProductScratch::kTileStride,
                             .rows = static_cast<int>(rows),
                             .columns = columns,
                             .out = out.at(at, column),
                             .out_stride = act.row_stride,
                             .bf16 = out.bf16});
            }
          }
        });
      });
}

void LinearOps::down(Form form, Tensor act, Tensor out) {
  int64_t strips = 0, bytes = 0, most = 0;
  for (size_t i = 0; i < groups_.size();) {
    // Neighbours of the same width are made ready together.
    size_t j = i;
    int64_t columns = groups_[i].w->down.cols, begin = groups_[i].begin, end = begin;
    for (; j < groups_.size() && groups_[j].w->down.cols == columns; ++j) {
      strips += Product::strips(groups_[j].w->down);
      bytes += groups_[j].w->down.bytes();
      most = std::max(most, groups_[j].rows);
      end = groups_[j].begin + groups_[j].rows;
    }
    prepare(prepared_, form, act.slice(begin, end).columns(0, columns), begin, act.row_stride);
    i = j;
  }
  plan_runs(&MlpWeights::down);
  const Inputs inputs = in_blocks(form, prepared_.inputs(form, 0, end_of_groups()));
  std::fill(interleaved_key_.begin(), interleaved_key_.end(), -1);
  over_strips(
      form, strips, bytes, most, groups_are_even(), [&](int64_t begin, int64_t end, int thread) {
        in_groups(begin, end, &MlpWeights::down, [&](const Group& g, int64_t from, int64_t to) {
          Outputs all{out.data, out.row_stride, out.dtype == DType::bf16};
          Outputs here{all.at(g.begin, Product::first_row(g.w->down, from)), all.stride, all.bf16};
          Inputs in = interleaved(form, inputs.slice(g.begin, g.rows), g.w->down.cols, thread,
                                  has_words(g.w->down), g.begin);
          product_.run(g.w->down, form, from, to, in, here, scratch_[static_cast<size_t>(thread)]);
        });
      });
}

void LinearOps::run_groups(Form form, Form down_form, Inputs x, Tensor out) {
  int64_t entries = end_of_groups();
  int64_t width = 0;
  for (const Group& g : groups_) width = std::max(width, g.w->gate.rows);
  Tensor act = matrix(act_, out.dtype, entries, padded(width));
  gate_up(form, x, act);
  down(down_form, act, out);
}

void LinearOps::mlp(Tensor out, Tensor x, const MlpWeights& w) {
  if (x.rows() == 0) return;
  if (w.empty()) return fill_zero(out);
  const QWeight* in[] = {&w.gate, &w.up};
  const QWeight* back[] = {&w.down};
  std::optional<Form> form = form_for(in);
  if (!form || !same_shape(w, x.row_size()) || x.rows() > std::max(workload_.step_tokens, 1) ||
      w.gate.rows > workload_.max_intermediate || !fits(x.rows(), x.row_size()))
    return ReferenceOps::mlp(out, x, w);
  prepare(prepared_, *form, x, 0, padded(x.row_size()));
  groups_.assign(1, Group{&w, 0, x.rows()});
  run_groups(*form, *form_for(back), prepared_.inputs(*form, 0, x.rows()), out);
}

// Sorts the tokens by expert. False: a mixture that the fast path does not know.
bool LinearOps::plan_groups(Tensor ids, Tensor weights, std::span<const MlpWeights> experts,
                            const MlpWeights* shared, int64_t hidden) {
  int64_t tokens = ids.rows(), k = ids.row_size(), count = static_cast<int64_t>(experts.size());
  if (tokens > std::max(workload_.step_tokens, 1) || k > workload_.experts_per_token ||
      count > workload_.experts || hidden > workload_.hidden)
    return false;
  std::fill(expert_begin_.begin(), expert_begin_.end(), 0);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < k; ++j) {
      int32_t e = ids.row<int32_t>(t)[j];
      FATHOM_CHECK(e >= 0 && e < count, "expert {} of {}", e, count);
      if (!experts[e].empty()) ++expert_begin_[e + 1];
    }
  groups_.clear();
  for (int64_t e = 0; e < count; ++e) {
    const MlpWeights& w = experts[e];
    if (!w.empty() && (!same_shape(w, hidden) || w.gate.rows > workload_.max_intermediate))
      return false;
    int64_t rows = expert_begin_[e + 1];
    expert_begin_[e + 1] += expert_begin_[e];
    if (rows) groups_.push_back({&w, expert_begin_[e], rows});
  }
  const int64_t routed = expert_begin_[count];
  if (shared) {
    if (!same_shape(*shared, hidden) || shared->gate.rows > workload_.max_intermediate)
      return false;
    groups_.push_back({shared, routed, tokens});
  }
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < k; ++j) {
      const int32_t e = ids.row<int32_t>(t)[j];
      if (experts[e].empty()) continue;
      int64_t entry = expert_begin_[e]++;
      entry_token_[entry] = static_cast<int32_t>(t);
      entry_slot_[entry] = static_cast<int32_t>(j);
    }
  std::fill_n(token_fill_.begin(), tokens, 0);
  for (int64_t entry = 0; entry < routed; ++entry) {
    int64_t t = entry_token_[entry], at = t * k + token_fill_[t]++;
    token_entry_[at] = static_cast<int32_t>(entry);
    token_weight_[at] = weights.row<float>(t)[entry_slot_[entry]];
  }
  for (int64_t t = 0; shared && t < tokens; ++t) entry_token_[routed + t] = static_cast<int32_t>(t);
  return true;
}

// `shared`: the row of `parts` where the shared expert's begin, -1 without one.
void LinearOps::combine(Tensor out, Tensor parts, int64_t per_token, int64_t shared) {
  int64_t size = static_cast<int64_t>(size_of(out.dtype));
  auto row = [&](const Tensor& m, int64_t i) {
    return static_cast<char*>(m.data) + i * m.row_stride * size;
  };
  pool_.parallel_for(out.rows(), 4, [&](int64_t begin, int64_t end, int thread) {
    const void** part = part_.data() + thread * per_token;
    for (int64_t t = begin; t < end; ++t) {
      const int here = token_fill_[t];  // of its experts are on this rank
      for (int64_t j = 0; j < here; ++j) part[j] = row(parts, token_entry_[t * per_token + j]);
      kernels_.combine({.part = part,
                        .weight = &token_weight_[t * per_token],
                        .parts = here,
                        .extra = shared >= 0 ? row(parts, shared + t) : nullptr,
                        .out = row(out, t),
                        .columns = out.row_size(),
                        .bf16 = out.dtype == DType::bf16});
    }
  });
}

void LinearOps::moe(Tensor out, Tensor x, Tensor ids, Tensor weights,
                    std::span<const MlpWeights> experts, const MlpWeights* shared) {
  if (x.rows() == 0) return;
  int64_t per_token = ids.row_size();
  // The form is chosen over all experts, not only the routed ones: it must not depend on the batch.
  auto form_of = [&](std::initializer_list<QWeight MlpWeights::*> parts) {
    weights_.clear();
    for (auto part : parts) {
      for (const MlpWeights& w : experts)
        if (!w.empty()) weights_.push_back(&(w.*part));
      if (shared) weights_.push_back(&(shared->*part));
    }
    return form_for(weights_);
  };
  bool known = experts.size() <= static_cast<size_t>(workload_.experts) && out.dtype == x.dtype &&
               fits(x.rows(), x.row_size()) && (per_token > 0 || shared);
  std::optional<Form> form, down_form;
  if (known) {
    form = form_of({&MlpWeights::gate, &MlpWeights::up});
    down_form = form_of({&MlpWeights::down});
  }
  if (!form || !down_form || !plan_groups(ids, weights, experts, shared, x.row_size()))
    return ReferenceOps::moe(out, x, ids, weights, experts, shared);
  if (groups_.empty()) return fill_zero(out);
  prepare(prepared_, *form, x, 0, padded(x.row_size()));
  Inputs in = prepared_.inputs(*form, 0, x.rows());
  int64_t entries = end_of_groups();
  for (int64_t i = 0; i < entries; ++i) {
    entry_x_[i] = in.x[entry_token_[i]];
    if (in.scale) entry_scale_[i] = in.scale[entry_token_[i]];
  }
  Tensor parts = matrix(parts_, out.dtype, entries, x.row_size());
  run_groups(*form, *down_form,
             {entry_x_.data(), in.scale ? entry_scale_.data() : nullptr, entries}, parts);
  combine(out, parts, per_token, shared ? groups_.back().begin : -1);
}

}  // namespace fathom
