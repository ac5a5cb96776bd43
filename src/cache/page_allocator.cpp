#include "cache/page_allocator.h"

#include "base/check.h"

namespace fathom {

PageAllocator::PageAllocator(int pages) : holders_(pages, 0), kept_(pages, false) {
  FATHOM_CHECK(pages >= 0, "{} pages", pages);
  free_.reserve(pages);
  for (int32_t page = pages - 1; page >= 0; --page) free_.push_back(page);  // page 0 goes first
}

int32_t PageAllocator::take() {
  FATHOM_CHECK(free_pages() > 0, "no free page of {}", size());
  if (free_.empty()) drop(keeper_->give_up_page());
  int32_t page = free_.back();
  free_.pop_back();
  FATHOM_CHECK(holders_[page] == 0, "free page {} has {} holders", page, holders_[page]);
  holders_[page] = 1;
  return page;
}

void PageAllocator::share(int32_t page) {
  check_page(page);
  FATHOM_CHECK(holders_[page] > 0 || kept_[page], "page {} shared while free", page);
  if (++holders_[page] > 1 || !kept_[page]) return;
  --idle_;
  keeper_->page_held(page);
}

void PageAllocator::release(int32_t page) {
  check_page(page);
  FATHOM_CHECK(holders_[page] > 0, "page {} released while free", page);
  if (--holders_[page] > 0) return;
  if (!kept_[page]) return free_.push_back(page);
  ++idle_;
  keeper_->page_idle(page);
}

void PageAllocator::keep(int32_t page) {
  check_page(page);
  FATHOM_CHECK(keeper_ && holders_[page] > 0 && !kept_[page], "page {} with {} holders is {}", page,
               holders_[page], kept_[page] ? "kept already" : "not to be kept");
  kept_[page] = true;
  ++kept_count_;
}

void PageAllocator::drop(int32_t page) {
  check_page(page);
  FATHOM_CHECK(kept_[page], "page {} is not kept", page);
  kept_[page] = false;
  --kept_count_;
  if (holders_[page] > 0) return;
  --idle_;
  free_.push_back(page);
}

int PageAllocator::holders(int32_t page) const {
  check_page(page);
  return holders_[page];
}

void PageAllocator::check_integrity() const {
  std::vector<bool> seen(holders_.size(), false);
  for (int32_t page : free_) {
    check_page(page);
    FATHOM_CHECK(!seen[page], "page {} is free twice", page);
    FATHOM_CHECK(holders_[page] == 0 && !kept_[page], "free page {} has {} holders", page,
                 holders_[page]);
    seen[page] = true;
  }
  int idle = 0, kept = 0;
  for (int32_t page = 0; page < size(); ++page) {
    const bool is_free = holders_[page] == 0 && !kept_[page];
    FATHOM_CHECK(seen[page] == is_free, "page {} with {} holders is {}", page, holders_[page],
                 seen[page] ? "free" : "lost");
    idle += holders_[page] == 0 && kept_[page];
    kept += kept_[page];
  }
  FATHOM_CHECK(idle == idle_ && kept == kept_count_, "{} pages idle of {} kept, {} of {} counted",
               idle, kept, idle_, kept_count_);
}

void PageAllocator::check_page(int32_t page) const {
  FATHOM_CHECK(page >= 0 && page < size(), "page {} of {}", page, size());
}

}  // namespace fathom
