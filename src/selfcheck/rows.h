// Copies of single rows of a step's tensors, and the arithmetic of their error bounds.
#pragma once

#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/batch_view.h"
#include "kernels/cpu/rows.h"
#include "tensor/tensor.h"

namespace fathom {

// A tensor that owns its memory.
struct OwnedTensor {
  std::vector<std::byte> memory;
  Tensor t;

  OwnedTensor() = default;
  // Moving a vector leaves its elements where they are.
  OwnedTensor(OwnedTensor&&) = default;
  OwnedTensor& operator=(OwnedTensor&&) = default;
  // `rows` rows shaped as those of `like`, in another dtype.
  OwnedTensor(Tensor like, int64_t rows, DType dtype)
      : memory(static_cast<size_t>(rows * like.row_size()) * size_of(dtype)), t(like) {
    t.data = memory.data();
    t.dtype = dtype;
    t.dims[0] = rows;
    t.row_stride = like.row_size();
  }
};

inline OwnedTensor copy_rows(Tensor x, std::span<const int32_t> rows) {
  if (x.empty()) return {};
  OwnedTensor out(x, static_cast<int64_t>(rows.size()), x.dtype);
  size_t element = size_of(x.dtype), bytes = static_cast<size_t>(x.row_size()) * element;
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(out.memory.data() + i * bytes,
                static_cast<const std::byte*>(x.data) +
                    static_cast<size_t>(rows[i] * x.row_stride) * element,
                bytes);
  return out;
}

inline std::vector<float> row_values(Tensor x, int64_t row) {
  std::vector<float> out(static_cast<size_t>(x.row_size()));
  load_row(x, row, out.data());
  return out;
}

inline double norm_of(std::span<const float> x) {
  double sum = 0;
  for (float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

// A batch of some tokens of another batch, for the reference. Positions in a span ascend but may
// have gaps, which the reference allows.
struct SubBatch {
  std::vector<int32_t> positions, sequences;
  std::vector<AttentionSpan> spans;
  BatchView view;

  SubBatch(const BatchView& batch, std::span<const int32_t> tokens) : view(batch) {
    for (int32_t t : tokens) {
      int i = static_cast<int>(positions.size());
      positions.push_back(batch.positions[t]);
      sequences.push_back(batch.sequence_of[t]);
      AttentionForm form = AttentionForm::expanded;
      for (const AttentionSpan& s : batch.spans)
        if (s.begin <= t && t < s.end) form = s.form;
      bool same = !spans.empty() && spans.back().form == form &&
                  spans.back().sequence == batch.sequence_of[t];
      if (!same) spans.push_back({i, i, batch.sequence_of[t], form});
      spans.back().end = i + 1;
    }
    view.tokens = static_cast<int>(positions.size());
    view.positions = positions.data();
    view.sequence_of = sequences.data();
    view.spans = spans;
  }
  SubBatch(const SubBatch&) = delete;
  SubBatch& operator=(const SubBatch&) = delete;
};

// Unit roundoff of float32, and the greatest relative error of one rounding to `t`.
inline constexpr double kUnit = 0x1p-24;
constexpr double half_ulp(DType t) { return t == DType::bf16 ? 0x1p-8 : kUnit; }

// Bound of the error of a float32 sum of n products, relative to the sum of their magnitudes (which
// is at most the product of the norms). It holds for any order of summation that keeps at least
// eight partial sums.
constexpr double sum_error(int64_t n) { return (static_cast<double>(n) / 8 + 8) * kUnit; }

}  // namespace fathom
