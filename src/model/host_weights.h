// Weights of a small model in memory of their own. Mapped files come in pages of 4 KiB. A step that
// reads 15 MB of them needs more translations of addresses than a processor remembers, and waits
// for the page tables. Copied, the weights lie in huge pages, every matrix from the beginning of a
// cache line on, in the order in which a step reads them.
#pragma once

#include <cstdint>

#include "model/weights.h"
#include "tensor/buffer.h"

namespace fathom {

// Whether a copy of `weights` pays: it is made in well under a second, and takes little of
// `available` bytes of memory.
bool copy_pays(const Weights& weights, int64_t available);

// Copies the matrices of `weights` with their scales into the memory that is returned, and makes
// the weights views of it; a part of a larger matrix becomes one of its own. Vectors stay where
// they are. Throws Error when there is no memory.
Buffer copy_matrices(Weights& weights);

}  // namespace fathom
