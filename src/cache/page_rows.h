// The rows of a page, wherever the cache lies: what keeping pages on disk needs of a device.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom {

class PageRows {
 public:
  virtual ~PageRows() = default;

  // A page of the cache as one piece of KvShape::bytes_per_page(). Done on return. A page is read
  // when the steps that write it are finished, and may be written while no step to come reads it:
  // that waits for the steps under way, which may still read what was there.
  virtual void read_page(int32_t page, std::byte* to) = 0;
  virtual void write_page(int32_t page, const std::byte* from) = 0;
};

}  // namespace fathom
