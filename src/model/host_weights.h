// Copies of the weights of a small model in host memory: in huge pages, and as the words that some
// kernels read. Mapped files have pages of 4 KiB, so a step that reads 15 MB of them needs more
// address translations than a processor caches (TLB), and waits for the page tables. In the copy
// every matrix begins on a cache line, and matrices lie in the order in which a step reads them.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "model/weights.h"
#include "tensor/buffer.h"

namespace fathom {

// Whether a copy of `weights` pays: it takes well under a second to make, and is small compared
// with `available` bytes of memory.
bool copy_pays(const Weights& weights, int64_t available);

// Copies the matrices of `weights` with their scales into the returned memory, and makes `weights`
// views of it. A part of a larger matrix becomes a matrix of its own. Vectors are not copied.
// Throws Error when memory does not suffice.
Buffer copy_matrices(Weights& weights);

// Whether words (QWeight::words) pay, which come on top of the weights.
bool words_pay(const Weights& weights, int64_t available);

// Gives the FP8 and bf16 matrices of `weights` words (kernels/cpu/words.h), which lie in the
// returned memory; but not the embedding, of which only single rows are read. Throws Error when
// memory does not suffice.
Buffer add_words(Weights& weights, ThreadPool& pool);

}  // namespace fathom
