#include "kernels/cpu/linear_ops.h"

#include <algorithm>
#include <utility>

#include "numerics/fp8.h"
#include "numerics/routing.h"

namespace fathom {
namespace {

// Products of less weight than this are too short for dynamic scheduling to pay.
constexpr int64_t kSmallBytes = 1 << 20;
// Bytes of weights in one piece of streaming work: long enough to prefetch, short enough to
// balance.
constexpr int64_t kDealtBytes = 128 << 10;
// Activations that one thread interleaves in less time than it takes to wake another.
constexpr int64_t kOwnBytes = 64 << 10;
// Where strips differ in work there are at least so many pieces a thread.
constexpr int64_t kUnevenPieces = 16;

bool is_bf16(const Tensor& x) { return x.dtype == DType::bf16; }

const void* row_at(const Tensor& x, int64_t row) {
  return static_cast<const char*>(x.data) +
         row * x.row_stride * static_cast<int64_t>(size_of(x.dtype));
}

void* row_at(Tensor& x, int64_t row) { return const_cast<void*>(row_at(std::as_const(x), row)); }

Outputs outputs(Tensor& out, int64_t row, int64_t column) {
  Outputs all{out.data, out.row_stride, is_bf16(out)};
  return {all.at(row, column), out.row_stride, all.bf16};
}

int64_t widest_input(const Workload& w) {
  // 2 * hidden: the MTP module joins an embedding and a hidden state.
  return padded(std::max<int64_t>({2 * w.hidden, w.max_intermediate, int64_t{w.heads} * w.value,
                                   w.q_rank, w.latent, int64_t{w.index_heads} * w.index_dim}));
}

}  // namespace

LinearOps::LinearOps(Numerics numerics, const Workload& w, ThreadPool& pool,
                     const GemmKernels& kernels)
    : ReferenceOps(numerics, w, pool), kernels_(kernels), product_(kernels, numerics) {
  int64_t tokens = std::max(w.step_tokens, 1), k = w.experts_per_token;
  max_entries_ = tokens * (k + 1);
  max_prepared_ = std::max(tokens * widest_input(w), max_entries_ * padded(w.max_intermediate));
  // Sized for float32, the widest form: a smaller form leaves the rest of the pages untouched.
  prepared_.values = Buffer(static_cast<size_t>(max_prepared_) * 4);
  prepared_.scales = Buffer(static_cast<size_t>(max_prepared_ / kStep + max_entries_) * 4);
  size_t element = numerics == Numerics::exact ? 4 : 2;
  act_ = Buffer(static_cast<size_t>(max_entries_ * padded(w.max_intermediate)) * element);
  parts_ = Buffer(static_cast<size_t>(max_entries_ * w.hidden) * element);
  logits_ = Buffer(static_cast<size_t>((tokens + pool.size()) * w.experts) * 4);
  size_t entries = static_cast<size_t>(max_entries_);
  for (Prepared* p : {&prepared_, &plain_}) {
    p->x.resize(entries);
    p->scale.resize(entries);
  }
  scratch_.resize(static_cast<size_t>(pool.size()));
  interleaved_bytes_ = Product::interleaved_bytes(widest_input(w), kStreamRows);
  interleaved_ = Buffer(static_cast<size_t>(2 * interleaved_bytes_ * pool.size()));
  interleaved_key_.resize(scratch_.size());
  lifted_.resize(scratch_.size());
  if (const int64_t unit = kernels.bf16.block_columns; unit > 0)
    blocks_ = Buffer(static_cast<size_t>(
        2 * std::max(max_prepared_ + unit * max_entries_, max_entries_ * (w.hidden + unit))));
  runs_.reserve(static_cast<size_t>(w.experts) + 1);
  groups_.reserve(static_cast<size_t>(w.experts) + 1);
  weights_.reserve(2 * static_cast<size_t>(w.experts) + 2);
  expert_begin_.resize(static_cast<size_t>(w.experts) + 1);
  for (auto* v : {&entry_token_, &entry_slot_, &token_entry_, &token_fill_}) v->resize(entries);
  token_weight_.resize(entries);
  entry_x_.resize(entries);
  entry_scale_.resize(entries);
  part_.resize(static_cast<size_t>(pool.size() * std::max<int64_t>(k, 1)));
}

std::string LinearOps::describe() const {
  return fmt::format("cpu, {} kernels, {} thread{}", kernels_.name, pool_.size(),
                     pool_.size() == 1 ? "" : "s");
}

void LinearOps::embed(Tensor hidden, const int32_t* ids, const QWeight& table) {
  if (table.dtype != DType::bf16 && table.dtype != DType::f32)
    return ReferenceOps::embed(hidden, ids, table);
  PrepareJob job;
  job.x_bf16 = table.dtype == DType::bf16;
  job.columns = table.cols;
  job.out_bf16 = is_bf16(hidden);
  job.pad = false;
  for (int64_t t = 0; t < hidden.rows(); ++t) {
    FATHOM_CHECK(ids[t] >= 0 && ids[t] < table.rows, "token {} of a vocabulary of {}", ids[t],
                 table.rows);
    job.x = static_cast<const char*>(table.data) +
            ids[t] * table.stride() * static_cast<int64_t>(size_of(table.dtype));
    job.out = row_at(hidden, t);
    kernels_.prepare(job);
  }
}

void LinearOps::rms_norm(Tensor out, Tensor x, const float* gain, float eps) {
  pool_.parallel_for(x.rows(), 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.norm({.x = row_at(x, t),
                     .out = row_at(out, t),
                     .x_bf16 = is_bf16(x),
                     .out_bf16 = is_bf16(out),
                     .columns = x.row_size(),
                     .gain = gain,
                     .eps = eps});
  });
}

void LinearOps::add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                             float eps) {
  if (update.dtype != residual.dtype)
    return ReferenceOps::add_rms_norm(normed, residual, update, gain, eps);
  pool_.parallel_for(residual.rows(), 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      kernels_.norm({.x = row_at(residual, t),
                     .update = row_at(update, t),
                     .sum = row_at(residual, t),
                     .out = row_at(normed, t),
                     .x_bf16 = is_bf16(residual),
                     .out_bf16 = is_bf16(normed),
                     .columns = residual.row_size(),
                     .gain = gain,
                     .eps = eps});
  });
}

// ------------------------------------------------------------------------------- activations

// Rows of the right type whose length is a whole number of steps need no copy.
bool LinearOps::in_place(Form form, Tensor x) {
  return form.quant == Form::Quant::plain && is_bf16(x) != form.f32 && x.row_size() % kStep == 0;
}

bool LinearOps::fits(int64_t rows, int64_t columns) const {
  return rows <= max_entries_ && rows * padded(columns) <= max_prepared_;
}

void LinearOps::prepare(Prepared& place, Form form, Tensor x, int64_t first, int64_t stride) {
  if (in_place(form, x)) {
    for (int64_t t = 0; t < x.rows(); ++t)
      place.x[first + t] = static_cast<const uint8_t*>(row_at(x, t));
    return;
  }
  int64_t blocks = (stride + kBlock - 1) / kBlock;
  pool_.parallel_for(x.rows(), 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      std::byte* to = place.values.data() + (first + t) * stride * (form.f32 ? 4 : 2);
      float* scales = reinterpret_cast<float*>(place.scales.data()) + (first + t) * blocks;
      kernels_.prepare({.x = row_at(x, t),
                        .x_bf16 = is_bf16(x),
                        .columns = x.row_size(),
                        .out = to,
                        .out_bf16 = !form.f32,
                        .group_scale = form.quant == Form::Quant::plain ? nullptr : group_scale,
                        .ue8m0 = workload_.ue8m0,
                        .scales = form.quant == Form::Quant::coded ? scales : nullptr});
      place.x[first + t] = reinterpret_cast<const uint8_t*>(to);
      place.scale[first + t] = scales;
    }
  });
}

// -------------------------------------------------------------------------------- projections

Inputs LinearOps::interleaved(Form form, Inputs in, int64_t columns, int thread, bool words,
                              int64_t key) {
  const bool itself = in.rows == 1 && product_.row_is_block(form, columns);
  if (itself) in.interleaved = in.x[0];
  // If in_blocks has not interleaved them, nothing is that is not streamed.
  if (product_.takes_blocks(form) || !product_.streams(form, columns, in.rows)) return in;
  const bool lifts = words && product_.lifts(form);
  if (itself && !lifts) return in;
  uint8_t* place =
      reinterpret_cast<uint8_t*>(interleaved_.data()) + 2 * thread * interleaved_bytes_;
  uint8_t* lifted = place + interleaved_bytes_;
  int64_t& there = interleaved_key_[static_cast<size_t>(thread)];
  const bool fresh = key < 0 || there != key;
  there = key;
  if (!itself) {
    if (fresh) product_.interleave(form, in, columns, place);
    in.interleaved = place;
  }
  if (lifts) {
    uint8_t& could = lifted_[static_cast<size_t>(thread)];
    if (fresh) could = product_.lift(form, in.interleaved, in.rows * columns, lifted);
    if (could) in.lifted = lifted;
  }
  return in;
}

Inputs LinearOps::in_blocks(Form form, Inputs in) {
  if (!product_.takes_blocks(form)) return in;
  const int64_t high = product_.block_rows(form);
  auto blocks_of = [&](const Run& run) {
    const bool itself = run.rows == 1 && product_.row_is_block(form, run.columns);
    return itself ? 0 : (run.rows + high - 1) / high;
  };
  int64_t blocks = 0, rows = 0;
  for (const Run& run : runs_) {
    in.row_bytes = std::max(in.row_bytes, product_.block_row_bytes(form, run.columns));
    blocks += blocks_of(run);
    rows = std::max(rows, run.begin + run.rows);
  }
  FATHOM_CHECK(static_cast<size_t>(rows * in.row_bytes) <= blocks_.size(),
               "{} rows of {} bytes in blocks", rows, in.row_bytes);
  uint8_t* place = reinterpret_cast<uint8_t*>(blocks_.data());
  in.interleaved = place;
  const int64_t grain = std::max<int64_t>(1, kOwnBytes / (high * in.row_bytes));
  pool_.parallel_for(blocks, grain, [&](int64_t begin, int64_t end, int) {
    int64_t first = 0;  // blocks of the runs before this one
    for (const Run& run : runs_) {
      const int64_t count = blocks_of(run);
      for (int64_t b = std::max(begin, first); b < std::min(end, first + count); ++b) {
        const int64_t row = run.begin + (b - first) * high;
        product_.interleave_block(form, in.x + row, std::min(high, run.begin + run.rows - row),
                                  run.columns, place + row * in.row_bytes);
      }
      first += count;
    }
  });
  return in;
}

void LinearOps::multiply_rows(const QWeight& w, Inputs x, Outputs out, int thread) {
  const Form form{.f32 = true};
  product_.run(w, form, 0, Product::strips(w), interleaved(form, x, w.cols, thread, has_words(w)),
               out, scratch_[static_cast<size_t>(thread)]);
}

void LinearOps::over_strips(Form form, int64_t strips, int64_t bytes, int64_t rows, bool even,
                            LoopBody body) {
  if (rows <= kStreamRows) {
    if (bytes < kSmallBytes && even) return pool_.parallel_for(strips, 1, body);
    int64_t grain = kDealtBytes * strips / bytes;
    if (!even) grain = std::min(grain, strips / (kUnevenPieces * pool_.size()));
    return pool_.parallel_dynamic(strips, std::max<int64_t>(1, grain), body);
  }
  // Whole panels share the activations best; narrow outputs are cut finer for balance.
  int64_t grain = product_.panel_strips(form);
  while (grain > 1 && strips < 4 * grain * pool_.size()) grain /= 2;
  pool_.parallel_dynamic(strips, grain, body);
}

// Runs `projections[first]` and all later ones that share its form, in one parallel region.
bool LinearOps::project_alike(std::span<const Projection> projections, Tensor x, size_t first) {
  auto form_at = [&](size_t i) {
    const QWeight* w = &projections[i].weight;
    return *form_for({&w, 1});
  };
  Form form = form_at(first);
  for (size_t i = 0; i < first; ++i)
    if (form_at(i) == form) return false;  // an earlier call has done this form
  bool here = in_place(form, x);
  Prepared& place = here ? plain_ : prepared_;
  prepare(place, form, x, 0, padded(x.row_size()));
  int64_t strips = 0, bytes = 0;
  bool words = false;
  for (size_t i = first; i < projections.size(); ++i) {
    if (form_at(i) != form) continue;
    strips += Product::strips(projections[i].weight);
    bytes += projections[i].weight.bytes();
    words |= has_words(projections[i].weight);
  }
  // Interleaved once for all threads.
  runs_.assign(1, {0, x.rows(), x.row_size()});
  Inputs in =
      interleaved(form, in_blocks(form, place.inputs(form, 0, x.rows())), x.row_size(), 0, words);
  over_strips(form, strips, bytes, x.rows(), true, [&](int64_t begin, int64_t end, int thread) {
    int64_t offset = 0;  // strips of the projections before this one
    for (size_t i = first; i < projections.size() && offset < end; ++i) {
      if (form_at(i) != form) continue;
      const QWeight& w = projections[i].weight;
      int64_t from = std::max(begin, offset) - offset;
      int64_t to = std::min(end - offset, Product::strips(w));
      Tensor out = projections[i].out;
      if (from < to)
        product_.run(w, form, from, to, in, outputs(out, 0, Product::first_row(w, from)),
                     scratch_[static_cast<size_t>(thread)]);
      offset += Product::strips(w);
    }
  });
  return true;
}

void LinearOps::project(std::span<const Projection> projections, Tensor x) {
  if (x.rows() == 0) return;
  if (!fits(x.rows(), x.row_size())) return ReferenceOps::project(projections, x);
  for (const Projection& p : projections)
    FATHOM_CHECK(p.weight.cols == x.row_size() && p.weight.rows == p.out.row_size(),
                 "weight [{}, {}] between inputs of {} and outputs of {}", p.weight.rows,
                 p.weight.cols, x.row_size(), p.out.row_size());
  for (size_t i = 0; i < projections.size(); ++i) project_alike(projections, x, i);
}

void LinearOps::route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
                      const RouterShape& shape) {
  int64_t experts = shape.experts;
  if (experts > workload_.experts || x.rows() > std::max(workload_.step_tokens, 1))
    return ReferenceOps::route(ids, weights, x, gate, bias, shape);
  float* memory = reinterpret_cast<float*>(logits_.data());
  Tensor logit(memory, DType::f32, {x.rows(), experts});
  float* scratch = memory + x.rows() * experts;
  linear(logit, x, gate);
  pool_.parallel_for(x.rows(), 4, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t)
      route_token(shape, logit.row<float>(t), bias, scratch + thread * experts, ids.row<int32_t>(t),
                  weights.row<float>(t));
  });
}

}  // namespace fathom
