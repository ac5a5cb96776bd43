// Tensor: a non-owning view of row-major memory, up to 4 dims. Only the first dim may be strided
// (a column slice of a matrix); everything below it is contiguous.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "base/check.h"
#include "numerics/bf16.h"
#include "tensor/dtype.h"

namespace fathom {

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<Bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::array<int64_t, 4> dims{1, 1, 1, 1};
  int64_t row_stride = 0;  // elements between consecutive indices of dim 0

  Tensor() = default;
  Tensor(void* p, DType t, std::initializer_list<int64_t> shape) : data(p), dtype(t) {
    FATHOM_CHECK(shape.size() >= 1 && shape.size() <= 4, "rank {}", shape.size());
    for (int64_t d : shape) dims[rank++] = d;
    row_stride = row_size();
  }

  int64_t rows() const { return dims[0]; }
  int64_t row_size() const { return dims[1] * dims[2] * dims[3]; }  // elements below dim 0
  int64_t size() const { return dims[0] * row_size(); }
  bool empty() const { return data == nullptr; }

  // Typed pointer to row i; the type must be the tensor's own.
  template <class T>
  T* row(int64_t i) const {
    FATHOM_CHECK(dtype == DTypeOf<T>::value, "tensor of {} read as {}", name_of(dtype),
                 name_of(DTypeOf<T>::value));
    return static_cast<T*>(data) + i * row_stride;
  }

  // Rows [begin, end) of dim 0.
  Tensor slice(int64_t begin, int64_t end) const {
    FATHOM_CHECK(0 <= begin && begin <= end && end <= dims[0], "rows [{}, {}) of {}", begin, end,
                 dims[0]);
    Tensor t = *this;
    t.data = static_cast<char*>(data) + begin * row_stride * static_cast<int64_t>(size_of(dtype));
    t.dims[0] = end - begin;
    return t;
  }

  // Columns [begin, end) of a matrix.
  Tensor columns(int64_t begin, int64_t end) const {
    FATHOM_CHECK(rank == 2 && 0 <= begin && begin <= end && end <= dims[1],
                 "columns [{}, {}) of rank {}, width {}", begin, end, rank, dims[1]);
    Tensor t = *this;
    t.data = static_cast<char*>(data) + begin * static_cast<int64_t>(size_of(dtype));
    t.dims[1] = end - begin;
    return t;
  }
};

}  // namespace fathom
