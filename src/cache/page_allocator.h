// Reference counts of the cache's pages. A page is a number here; its memory is KvPool's. Several
// sequences may hold one page (a shared prefix), so each page has a count of holders. A page
// without holders is free, or idle if the keeper still wants its rows. The scheduler may count an
// idle page as free: it is evicted when no free page is left.
#pragma once

#include <cstdint>
#include <vector>

namespace fathom {

// The owner of rows that outlive their holders (the prefix tree).
class PageKeeper {
 public:
  virtual ~PageKeeper() = default;
  // A kept page has lost its last holder, or has its first one again.
  virtual void page_idle(int32_t page) = 0;
  virtual void page_held(int32_t page) = 0;
  // Evicts one idle page, which is then no longer kept, and returns it. Called only while an idle
  // page exists.
  virtual int32_t give_up_page() = 0;
};

// Thread-compatible: the engine thread owns it. Host book-keeping only, the same for every device.
class PageAllocator {
 public:
  explicit PageAllocator(int pages);

  // Returns a page for new rows, with one holder: a free page, or else an idle one, which is
  // evicted. Calling it when there is neither is a bug: the scheduler counts pages first.
  int32_t take();
  // Adds a holder to a page that is held or kept.
  void share(int32_t page);
  // Removes a holder. After the last one the page is free, or idle if it is kept.
  void release(int32_t page);

  // There is at most one keeper. It must outlive its kept pages, or drop them first.
  void set_keeper(PageKeeper* keeper) { keeper_ = keeper; }
  // keep() marks a held page as kept; drop() ends that for any page.
  void keep(int32_t page);
  void drop(int32_t page);

  int size() const { return static_cast<int>(holders_.size()); }
  int free_pages() const { return static_cast<int>(free_.size()) + idle_; }  // idle ones too
  int used_pages() const { return size() - free_pages(); }
  int kept_pages() const { return kept_count_; }
  int holders(int32_t page) const;
  bool idle(int32_t page) const { return holders(page) == 0 && kept_[page]; }

  // Stops the program unless the free list holds exactly the pages that nobody holds or keeps, each
  // once. Linear in the number of pages: for an idle engine and for tests, after every step.
  void check_integrity() const;

 private:
  void check_page(int32_t page) const;

  std::vector<int32_t> holders_;
  std::vector<bool> kept_;
  std::vector<int32_t> free_;  // a stack: the page freed last is taken first, as it may still be in
                               // the processor's cache
  int idle_ = 0, kept_count_ = 0;
  PageKeeper* keeper_ = nullptr;
};

}  // namespace fathom
