// Access to the rows of a page, whatever memory the cache lies in. Storing pages on disk needs no
// more of a device than this.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom {

class PageRows {
 public:
  virtual ~PageRows() = default;

  // Copies a page as one block of KvShape::bytes_per_page() bytes; the copy is complete on return.
  // The caller reads a page only after the steps that write it have finished. It writes a page only
  // while no later step reads it; the call waits for the steps in flight, which may still read the
  // old rows.
  virtual void read_page(int32_t page, std::byte* to) = 0;
  virtual void write_page(int32_t page, const std::byte* from) = 0;
};

}  // namespace fathom
