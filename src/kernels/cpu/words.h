// Makes the copy of a weight in words (QWeight::words), which kernels whose lanes are outputs read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/qweight.h"

namespace fathom {

// Returns the bytes of a matrix's words; 0 for types and shapes without them: strips of kWordRows
// rows must not cross blocks of scales.
int64_t words_bytes(const QWeight& w);

// Gives `w` words in words_bytes() at `to`. Returns false, and leaves `w` as it is, if it must go
// without: for its type or shape, because it has NaN codes, or because so many of its codes are
// subnormal that the kernels' arithmetic would be slow on some processors. `any_magnitude` passes
// over the last condition.
bool add_words(QWeight& w, std::byte* to, bool any_magnitude = false);

}  // namespace fathom
