#include "cache/prefix_tree.h"

#include <algorithm>

#include "base/check.h"

namespace fathom {

PrefixTree::PrefixTree(PageAllocator& pages)
    : pages_(pages),
      nodes_(static_cast<size_t>(pages.size())),
      ids_(static_cast<size_t>(pages.size()) * kPageRows) {
  pages_.set_keeper(this);
}

// The kept page for page number `page` of a text whose page before is kept as `before`. The tokens
// and the page before are compared, and so, by induction, the whole text: two texts with one key do
// not match.
int32_t PrefixTree::child(int32_t before, const PrefixQuery& q, size_t page) const {
  auto it = by_key_.find(q.keys[page]);
  if (it == by_key_.end()) return kRoot;
  const int32_t kept = it->second;
  if (nodes_[static_cast<size_t>(kept)].before != before) return kRoot;
  const std::span<const int32_t> ids = q.page_ids(page);
  const auto mine = ids_.begin() + static_cast<int64_t>(kept) * kPageRows;
  return std::equal(ids.begin(), ids.end(), mine) ? kept : kRoot;
}

PrefixTree::Found PrefixTree::find(const PrefixQuery& q) const {
  Found found;
  int32_t at = kRoot;
  for (size_t i = 0; i < q.keys.size(); ++i) {
    at = child(at, q, i);
    if (at == kRoot) break;
    found.path.push_back(at);
    found.idle += pages_.holders(at) == 0;
  }
  found.pages = static_cast<int64_t>(found.path.size());
  return found;
}

std::vector<int32_t> PrefixTree::hold(const PrefixQuery& q) {
  std::vector<int32_t> held;
  int32_t at = kRoot;
  for (size_t i = 0; i < q.keys.size(); ++i) {
    at = child(at, q, i);
    if (at == kRoot) break;
    pages_.share(at);
    held.push_back(at);
  }
  return held;
}

int32_t PrefixTree::page_at(const PrefixQuery& q) const {
  int32_t at = kRoot;
  for (size_t i = 0; i < q.keys.size(); ++i)
    if ((at = child(at, q, i)) == kRoot) break;
  return at;
}

int64_t PrefixTree::complete_pages(std::span<const int32_t> pages) const {
  const auto lacking = std::find_if_not(pages.begin(), pages.end(), [&](int32_t page) {
    return nodes_[static_cast<size_t>(page)].complete;
  });
  return lacking - pages.begin();
}

bool PrefixTree::insert(const PrefixQuery& q, std::span<int32_t> pages, size_t complete) {
  FATHOM_CHECK(pages.size() >= q.keys.size(), "{} keys, {} pages", q.keys.size(), pages.size());
  int32_t before = kRoot;
  for (size_t i = 0; i < q.keys.size(); ++i) {
    int32_t at = child(before, q, i);
    if (at == kRoot) {
      // Another text has this key: its page stays, and this text is not kept from here on.
      if (by_key_.contains(q.keys[i])) return false;
      at = pages[i];
      add(q, i, before, at);
      nodes_[static_cast<size_t>(at)].complete = i < complete;
    } else if (at == pages[i]) {
      nodes_[static_cast<size_t>(at)].complete |= i < complete;
    } else if (i < complete && !nodes_[static_cast<size_t>(at)].complete) {
      return false;  // the caller's own has more rows, and a kept page's holders must not change
    } else {
      pages_.share(at);
      pages_.release(pages[i]);
      pages[i] = at;
    }
    before = at;
  }
  return true;
}

void PrefixTree::add(const PrefixQuery& q, size_t i, int32_t before, int32_t page) {
  pages_.keep(page);
  by_key_.emplace(q.keys[i], page);
  nodes_[static_cast<size_t>(page)] = {q.keys[i], before, 0, clock_, false, true};
  const std::span<const int32_t> ids = q.page_ids(i);
  std::copy(ids.begin(), ids.end(), ids_.begin() + static_cast<int64_t>(page) * kPageRows);
  // The page before is held by the caller, so it is not among the idle leaves.
  if (before != kRoot) ++nodes_[static_cast<size_t>(before)].next;
}

void PrefixTree::page_idle(int32_t page) {
  Node& n = nodes_[static_cast<size_t>(page)];
  n.used = ++clock_;
  if (n.next == 0) idle_leaves_.insert({n.used, page});
}

void PrefixTree::page_held(int32_t page) {
  Node& n = nodes_[static_cast<size_t>(page)];
  if (n.next == 0) idle_leaves_.erase({n.used, page});
}

int32_t PrefixTree::give_up_page() {
  FATHOM_CHECK(!idle_leaves_.empty(), "none of {} kept pages is an idle leaf", size());
  const int32_t page = idle_leaves_.begin()->second;
  forget(page);
  return page;
}

// The caller tells the allocator.
void PrefixTree::forget(int32_t page) {
  Node& n = nodes_[static_cast<size_t>(page)];
  idle_leaves_.erase({n.used, page});
  by_key_.erase(n.key);
  left_by_child(n.before);
}

void PrefixTree::left_by_child(int32_t page) {
  if (page == kRoot) return;
  Node& n = nodes_[static_cast<size_t>(page)];
  if (--n.next == 0 && pages_.idle(page)) idle_leaves_.insert({n.used, page});
}

void PrefixTree::mark_verified(const PrefixQuery& q) {
  int32_t at = kRoot;
  for (size_t i = 0; i < q.keys.size() && (at = child(at, q, i)) != kRoot; ++i)
    nodes_[static_cast<size_t>(at)].verified = true;
}

std::vector<PageKey> PrefixTree::drop_unverified(const PrefixQuery& q) {
  int32_t at = kRoot;
  for (size_t i = 0; i < q.keys.size(); ++i) {
    at = child(at, q, i);
    if (at == kRoot || !nodes_[static_cast<size_t>(at)].verified) break;
  }
  if (at == kRoot || nodes_[static_cast<size_t>(at)].verified) return {};
  std::vector<PageKey> dropped;
  for (int32_t page : subtree(at)) {
    const Node& n = nodes_[static_cast<size_t>(page)];
    dropped.push_back(n.key);
    idle_leaves_.erase({n.used, page});
    by_key_.erase(n.key);
    pages_.drop(page);
  }
  left_by_child(nodes_[static_cast<size_t>(at)].before);
  return dropped;
}

// A page and all pages that continue it. A node knows only the page before it, so each walks up
// until it meets one that is decided.
std::vector<int32_t> PrefixTree::subtree(int32_t top) const {
  enum class Place : uint8_t { unknown, inside, outside };
  std::vector<Place> where(nodes_.size(), Place::unknown);
  where[static_cast<size_t>(top)] = Place::inside;
  std::vector<int32_t> found, way;
  for (const auto& [key, page] : by_key_) {
    int32_t at = page;
    for (way.clear(); at != kRoot && where[static_cast<size_t>(at)] == Place::unknown;
         at = nodes_[static_cast<size_t>(at)].before)
      way.push_back(at);
    const Place decided = at == kRoot ? Place::outside : where[static_cast<size_t>(at)];
    for (int32_t p : way) where[static_cast<size_t>(p)] = decided;
    if (where[static_cast<size_t>(page)] == Place::inside) found.push_back(page);
  }
  return found;
}

void PrefixTree::clear() {
  for (const auto& [key, page] : by_key_) pages_.drop(page);
  by_key_.clear();
  idle_leaves_.clear();
}

}  // namespace fathom
