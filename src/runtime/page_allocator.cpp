#include "runtime/page_allocator.h"

#include "base/check.h"

namespace fathom {

PageAllocator::PageAllocator(int pages) : holders_(pages, 0) {
  FATHOM_CHECK(pages >= 0, "{} pages", pages);
  free_.reserve(pages);
  for (int32_t page = pages - 1; page >= 0; --page) free_.push_back(page);  // page 0 goes first
}

int32_t PageAllocator::take() {
  FATHOM_CHECK(!free_.empty(), "no free page of {}", size());
  int32_t page = free_.back();
  free_.pop_back();
  FATHOM_CHECK(holders_[page] == 0, "free page {} has {} holders", page, holders_[page]);
  holders_[page] = 1;
  return page;
}

void PageAllocator::share(int32_t page) {
  check_page(page);
  FATHOM_CHECK(holders_[page] > 0, "page {} shared while free", page);
  ++holders_[page];
}

void PageAllocator::release(int32_t page) {
  check_page(page);
  FATHOM_CHECK(holders_[page] > 0, "page {} released while free", page);
  if (--holders_[page] == 0) free_.push_back(page);
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
    FATHOM_CHECK(holders_[page] == 0, "free page {} has {} holders", page, holders_[page]);
    seen[page] = true;
  }
  for (int32_t page = 0; page < size(); ++page)
    FATHOM_CHECK(seen[page] == (holders_[page] == 0), "page {} with {} holders is {}", page,
                 holders_[page], seen[page] ? "free" : "lost");
}

void PageAllocator::check_page(int32_t page) const {
  FATHOM_CHECK(page >= 0 && page < size(), "page {} of {}", page, size());
}

}  // namespace fathom
