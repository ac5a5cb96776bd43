// Who holds which page of the cache. Pages are numbers; their memory is KvPool's. A page may be
// held by several (a shared prefix), so it has a count of holders. Without holders it is free, or,
// when someone keeps what is in it, idle: as good as free to whoever plans, and emptied last.
#pragma once

#include <cstdint>
#include <vector>

namespace fathom {

// Whoever keeps pages that nobody holds.
class PageKeeper {
 public:
  virtual ~PageKeeper() = default;
  // A kept page has lost its last holder, or has got one again.
  virtual void page_idle(int32_t page) = 0;
  virtual void page_held(int32_t page) = 0;
  // Room is needed: one idle page, no longer kept. Asked only while there is one.
  virtual int32_t give_up_page() = 0;
};

// Thread-compatible: the engine thread owns it. Host book-keeping only, the same for every device.
class PageAllocator {
 public:
  explicit PageAllocator(int pages);

  // A page for new rows, now held once: a free one, or else an idle one that its keeper gives up.
  // Asking when there is neither is a bug: the scheduler counts first.
  int32_t take();
  // One more holder of a page that is held or kept.
  void share(int32_t page);
  // One holder less; without any the page is free, or idle if it is kept.
  void release(int32_t page);

  // At most one keeper; it must outlive every use of its pages, or drop them.
  void set_keeper(PageKeeper* keeper) { keeper_ = keeper; }
  // From now on a held page is kept, or any page no longer.
  void keep(int32_t page);
  void drop(int32_t page);

  int size() const { return static_cast<int>(holders_.size()); }
  int free_pages() const { return static_cast<int>(free_.size()) + idle_; }  // idle ones too
  int used_pages() const { return size() - free_pages(); }
  int kept_pages() const { return kept_count_; }
  int holders(int32_t page) const;
  bool idle(int32_t page) const { return holders(page) == 0 && kept_[page]; }

  // Every page is either free once, with no holder and not kept, or something else; stops the
  // program otherwise. Linear in the number of pages: run when idle and after every step of a test.
  void check_integrity() const;

 private:
  void check_page(int32_t page) const;

  std::vector<int32_t> holders_;
  std::vector<bool> kept_;
  std::vector<int32_t> free_;  // a stack: the page freed last is taken first, it may still be warm
  int idle_ = 0, kept_count_ = 0;
  PageKeeper* keeper_ = nullptr;
};

}  // namespace fathom
