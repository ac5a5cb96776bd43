// Who holds which page of the cache. Pages are numbers; their memory is KvPool's. A page may be
// held by several (a shared prefix), so it has a count of holders and is free at zero.
#pragma once

#include <cstdint>
#include <vector>

namespace fathom {

// Thread-compatible: the engine thread owns it. Host book-keeping only, the same for every device.
class PageAllocator {
 public:
  explicit PageAllocator(int pages);

  // A free page, now held once. Asking when none is free is a bug: the scheduler counts first.
  int32_t take();
  // One more holder of a page that is held already.
  void share(int32_t page);
  // One holder less; the last one frees the page.
  void release(int32_t page);

  int size() const { return static_cast<int>(holders_.size()); }
  int free_pages() const { return static_cast<int>(free_.size()); }
  int used_pages() const { return size() - free_pages(); }
  int holders(int32_t page) const;

  // Every page is either free once with no holder, or not free with at least one; stops the program
  // otherwise. Linear in the number of pages: run when idle and after every step of a test.
  void check_integrity() const;

 private:
  void check_page(int32_t page) const;

  std::vector<int32_t> holders_;
  std::vector<int32_t> free_;  // a stack: the page freed last is taken first, it may still be warm
};

}  // namespace fathom
