#include "kernels/cpu/product.h"

#include <algorithm>
#include <cstring>

namespace fathom {
namespace {

constexpr int64_t kCarryBytes = int64_t{kRowChunk} * kStripRows * 4;
constexpr int64_t kTileBytes = int64_t{kRowChunk} * ProductScratch::kTileStride * 4;

WeightCode code_of(DType dtype) {
  switch (dtype) {
    case DType::fp8_e4m3:
      return WeightCode::fp8;
    case DType::bf16:
      return WeightCode::bf16;
    case DType::f16:
      return WeightCode::f16;
    default:
      FATHOM_CHECK(dtype == DType::f32, "weights of {}", name_of(dtype));
      return WeightCode::f32;
  }
}

Form form_of(const QWeight& w, Numerics numerics, bool ue8m0, bool has_bf16) {
  bool narrow = w.is_fp8() || w.dtype == DType::bf16;
  Form form{.f32 = numerics == Numerics::exact || !has_bf16 || !narrow};
  if (numerics == Numerics::fp8 && w.is_fp8())
    form.quant = ue8m0 && w.pow2_scale ? Form::Quant::folded : Form::Quant::coded;
  return form;
}

// What is packed after a strip's columns at k0: its next columns, or the first of the next panel.
void look_ahead(TileJob& job, const Strip& strip, int64_t k0, int64_t size, int64_t panel_strips) {
  if (strip.rows != kStripRows) return;
  int64_t next = k0 + kDepth;
  bool more = next < strip.columns;
  int64_t columns = std::min<int64_t>(kDepth, more ? strip.columns - next : strip.columns);
  job.ahead = strip.data + (more ? next * size : panel_strips * kStripRows * strip.stride);
  job.ahead_stride = strip.stride;
  job.ahead_lines = static_cast<int>((columns * size + 63) / 64 * kStripRows);
}

// A size known here makes each copy a load and a store.
template <int kUnit>
void interleave_units(Inputs in, int64_t bytes, uint8_t* to) {
  for (int64_t i = 0; i < bytes; i += kUnit)
    for (int64_t m = 0; m < in.rows; ++m, to += kUnit) std::memcpy(to, in.x[m] + i, kUnit);
}

}  // namespace

std::optional<Form> common_form(std::span<const QWeight* const> weights, Numerics numerics,
                                bool ue8m0, bool has_bf16) {
  std::optional<Form> common;
  for (const QWeight* w : weights) {
    Form form = form_of(*w, numerics, ue8m0, has_bf16);
    if (!common) common = form;
    bool quantised = form.quant != Form::Quant::plain;
    if (quantised != (common->quant != Form::Quant::plain)) return std::nullopt;
    // The coded form and float32 can hold every weight, so they win over the others.
    if (form.quant == Form::Quant::coded) common->quant = form.quant;
    common->f32 |= form.f32;
  }
  return common;
}

ProductScratch::ProductScratch()
    : memory_(static_cast<size_t>(kMaxPanelStrips * (kPanelBytes + kCarryBytes) + 2 * kTileBytes)) {
}

uint8_t* ProductScratch::panel(int strip) const {
  return reinterpret_cast<uint8_t*>(memory_.data()) + strip * kPanelBytes;
}

float* ProductScratch::carry(int strip) const {
  return reinterpret_cast<float*>(memory_.data() + kMaxPanelStrips * kPanelBytes +
                                  strip * kCarryBytes);
}

float* ProductScratch::tile(int which) const {
  return reinterpret_cast<float*>(memory_.data() + kMaxPanelStrips * (kPanelBytes + kCarryBytes) +
                                  which * kTileBytes);
}

int64_t Product::first_row(const QWeight& w, int64_t strip) {
  return std::max<int64_t>(0, strip * kStripRows - w.row_offset % kStripRows);
}

Strip Product::strip_at(const QWeight& w, Form form, int64_t strip) const {
  int64_t begin = first_row(w, strip);
  int64_t end = std::min(w.rows, first_row(w, strip + 1));
  const int64_t stride = w.stride() * static_cast<int64_t>(size_of(w.dtype));
  Strip s{.data = static_cast<const uint8_t*>(w.data) + begin * stride,
          .stride = stride,
          .rows = static_cast<int>(end - begin),
          .columns = w.cols,
          .code = code_of(w.dtype),
          .round_to_bf16 = numerics_ != Numerics::exact};
  if (w.words) s.words = w.words + begin * w.cols * static_cast<int64_t>(size_of(w.dtype));
  if (w.is_fp8() && form.quant != Form::Quant::coded) s.scale = w.scales_of_row(begin);
  return s;
}

void Product::interleave(Form form, Inputs in, int64_t columns, uint8_t* to) const {
  const int64_t bytes = columns * element_size(form);
  switch (of(form).stream_unit) {
    case 16:
      return interleave_units<16>(in, bytes, to);
    case 32:
      return interleave_units<32>(in, bytes, to);
    default:
      FATHOM_CHECK(of(form).stream_unit == 64, "units of {} bytes", of(form).stream_unit);
      return interleave_units<64>(in, bytes, to);
  }
}

void Product::run(const QWeight& w, Form form, int64_t begin, int64_t end, Inputs in, Outputs out,
                  const ProductScratch& scratch) const {
  int64_t column0 = first_row(w, begin);
  auto from = [&](int64_t strip, int64_t row) {
    return Outputs{out.at(row, first_row(w, strip) - column0), out.stride, out.bf16};
  };
  const bool streaming = streams(form, w.cols, in.rows);
  FATHOM_CHECK(in.interleaved || !(streaming || takes_blocks(form)), "{} rows are not interleaved",
               in.rows);
  if (streaming) {
    // The last strip may have fewer rows than a stream needs; both ways give the same bits.
    for (; begin < end; ++begin) {
      const Strip strip = strip_at(w, form, begin);
      if (strip.rows == kStripRows)
        stream(w, form, begin, strip, in, from(begin, 0));
      else
        panel(w, form, begin, begin + 1, in, from(begin, 0), scratch);
    }
    return;
  }
  const int64_t strips = in.rows <= kFewRows ? 1 : panel_strips(form);
  for (; begin < end; begin += strips)
    for (int64_t row = 0; row < in.rows; row += kRowChunk)
      panel(w, form, begin, std::min(begin + strips, end),
            in.slice(row, std::min<int64_t>(kRowChunk, in.rows - row)), from(begin, row), scratch);
}

void Product::stream(const QWeight& w, Form form, int64_t at, const Strip& strip, Inputs in,
                     Outputs out) const {
  StreamJob job{.strip = strip,
                .x = in.interleaved,
                .x_lifted = in.lifted,
                .x_row_bytes = in.row_bytes,
                .rows = static_cast<int>(in.rows),
                .out = out.data,
                .out_stride = out.stride,
                .out_bf16 = out.bf16};
  job.next = job.strip.data + kStripRows * job.strip.stride;
  if (form.quant == Form::Quant::coded) {
    job.x_scale = in.scale;
    job.w_scale = w.scales_of_row(first_row(w, at));
  }
  of(form).stream(job);
}

TileJob Product::tile_job(const QWeight& w, Form form, int64_t strip, int64_t k0, int64_t depth,
                          Inputs in, int64_t row, int64_t rows, Outputs out) const {
  const int element = element_size(form);
  const int64_t first = first_row(w, strip);
  TileJob job{.x = in.x + row,
              .x_offset = k0 * element,
              .x_blocks = in.interleaved,
              .x_row_bytes = in.row_bytes,
              .rows = static_cast<int>(rows),
              .units = static_cast<int>((depth + kStep - 1) / kStep * kStep * element / 16),
              .first = k0 == 0,
              .last = k0 + kDepth >= w.cols,
              .out = out.at(row, 0),
              .out_stride = out.stride,
              .out_bf16 = out.bf16,
              .columns = static_cast<int>(std::min(w.rows, first_row(w, strip + 1)) - first)};
  if (form.quant == Form::Quant::coded) {
    job.x_scale = in.scale + row;
    job.x_scale_offset = k0 / kBlock;
    job.w_scale = w.scales_of_row(first) + k0 / kBlock;
  }
  return job;
}

void Product::panel(const QWeight& w, Form form, int64_t begin, int64_t end, Inputs in, Outputs out,
                    const ProductScratch& scratch) const {
  const ProductKernels& k = of(form);
  const bool many = k.many_rows > 0 && in.rows >= k.many_rows;
  const auto pack = many ? k.pack_many : k.pack;
  const auto tile = many ? k.tile_many : k.tile;
  const int64_t row_block = many ? k.row_block : in.rows;
  for (int64_t k0 = 0; k0 < w.cols; k0 += kDepth) {
    int depth = static_cast<int>(std::min<int64_t>(kDepth, w.cols - k0));
    for (int64_t s = begin; s < end; ++s)
      pack(strip_at(w, form, s), k0, depth, scratch.panel(static_cast<int>(s - begin)));
    for (int64_t row = 0; row < in.rows; row += row_block)
      for (int64_t s = begin; s < end; ++s) {
        const int i = static_cast<int>(s - begin);
        const int64_t rows = std::min(row_block, in.rows - row);
        const int64_t column = first_row(w, s) - first_row(w, begin);
        TileJob job = tile_job(w, form, s, k0, depth, in, row, rows,
                               {out.at(0, column), out.stride, out.bf16});
        job.panel = scratch.panel(i);
        job.carry = scratch.carry(i) + row * kStripRows;
        if (row + rows == in.rows)
          look_ahead(job, strip_at(w, form, s), k0, static_cast<int64_t>(size_of(w.dtype)),
                     end - begin);
        tile(job);
      }
  }
}

}  // namespace fathom
