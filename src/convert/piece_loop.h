// Runs many pieces of work on several threads. While it runs it reports up to which piece all are
// done, which a resumable copy needs to know.
#pragma once

#include <cstdint>
#include <functional>

namespace fathom {

struct PieceLoop {
  uint64_t first = 0, count = 0;  // pieces [first, count)
  int threads = 1;
  // Does piece `i`; `thread` is 0 .. threads - 1. May throw: the loop then stops.
  std::function<void(uint64_t i, int thread)> work;
  // Called on the caller's thread about ten times a second. Every piece below `done` is finished.
  std::function<void(uint64_t done)> watch;
};

// Pieces are started in order, so that files are read and written front to back. Rethrows the first
// error after all threads have stopped.
void run_pieces(const PieceLoop& loop);

}  // namespace fathom
