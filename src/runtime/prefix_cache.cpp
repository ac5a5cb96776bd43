#include "runtime/prefix_cache.h"

#include <algorithm>

#include "runtime/kv_pool.h"

namespace fathom {
namespace {

// Whole pages that two token lists have in common from the start.
size_t common_pages(std::span<const int32_t> a, std::span<const int32_t> b) {
  size_t n = std::min(a.size(), b.size());
  auto differs = std::mismatch(a.begin(), a.begin() + static_cast<int64_t>(n), b.begin());
  return static_cast<size_t>(differs.first - a.begin()) / kPageRows;
}

}  // namespace

std::vector<int32_t> PrefixCache::match(std::span<const int32_t> ids) {
  if (ids.empty()) return {};
  auto best = entries_.end();
  size_t most = 0;
  for (auto e = entries_.begin(); e != entries_.end(); ++e) {
    size_t n = common_pages(e->ids, ids.first(ids.size() - 1));
    if (n > most) {
      most = n;
      best = e;
    }
  }
  if (best == entries_.end()) return {};
  entries_.splice(entries_.begin(), entries_, best);
  std::vector<int32_t> shared(best->pages.begin(),
                              best->pages.begin() + static_cast<int64_t>(most));
  for (int32_t page : shared) pages_.share(page);
  return shared;
}

void PrefixCache::insert(std::span<const int32_t> ids, std::span<const int32_t> pages) {
  const size_t whole = ids.size() / kPageRows;
  if (capacity_ == 0 || whole == 0) return;
  for (const Entry& e : entries_)
    if (common_pages(e.ids, ids) == whole) return;  // a kept prompt covers this one
  // What this one covers is of no more use: the next turn of a conversation replaces the last.
  for (auto e = entries_.begin(); e != entries_.end();) {
    auto next = std::next(e);
    if (common_pages(e->ids, ids) == e->pages.size()) {
      for (int32_t page : e->pages) pages_.release(page);
      entries_.erase(e);
    }
    e = next;
  }
  while (entries_.size() >= capacity_) evict_one();
  Entry entry;
  entry.ids.assign(ids.begin(), ids.begin() + static_cast<int64_t>(whole) * kPageRows);
  entry.pages.assign(pages.begin(), pages.begin() + static_cast<int64_t>(whole));
  for (int32_t page : entry.pages) pages_.share(page);
  entries_.push_front(std::move(entry));
}

bool PrefixCache::evict_one() {
  if (entries_.empty()) return false;
  for (int32_t page : entries_.back().pages) pages_.release(page);
  entries_.pop_back();
  return true;
}

}  // namespace fathom
