// Cache pages of prompts already computed, kept for requests that begin alike: the next turn of a
// conversation, the same system prompt. Latent and index rows of a token lie in the same page, so
// sharing a page shares both.
//
// A page is known by the tokens in it and all tokens before: pages form a tree, and a prompt is a
// way down from its root. Only whole pages of prompt rows are kept. A page in use is never written
// again (rows are appended behind it), and rows of generated tokens are left out unless decode
// rounds as prefill does: so an answer does not depend on what the cache happened to hold.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cache/page_allocator.h"
#include "cache/page_key.h"

namespace fathom {

// A text to look up: its tokens, and the keys of its first pages (extend_keys).
struct PrefixQuery {
  std::span<const int32_t> ids;
  std::span<const PageKey> keys;

  std::span<const int32_t> page_ids(size_t page) const {
    return ids.subspan(page * kPageRows, static_cast<size_t>(kPageRows));
  }
};

// Thread-compatible: the engine thread owns it, as it owns the allocator. Kept pages that nobody
// holds count as free there. They are given up by last use, and a page never before those that
// continue it. Everything here costs time by the pages of the text, not by what is kept; giving up
// one page costs the logarithm of the idle ones.
class PrefixTree final : public PageKeeper {
 public:
  // `pages` must outlive this object and have no other keeper.
  explicit PrefixTree(PageAllocator& pages);
  ~PrefixTree() override { clear(); }
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  // What holding a prefix would bring: its pages, and how many of them, the last ones, are idle
  // now: an idle page that is held counts as free no longer.
  struct Found {
    int64_t pages = 0, idle = 0;
    std::vector<int32_t> path;  // the pages, in order
  };
  // The longest kept prefix of at most as many pages as `q` has keys.
  Found find(const PrefixQuery& q) const;
  // The same, and the caller is now a holder of each page.
  std::vector<int32_t> hold(const PrefixQuery& q);

  // Keeps the pages of a computed text: the rows of page i lie in pages[i], one for each key of
  // `q`, held by the caller. Where a page is kept already, the caller is given that one (the rows
  // are the same) and its own is freed: so who holds a kept page holds all before it, and what is
  // idle can go, leaves first. True when each page of the text is kept now.
  bool insert(const PrefixQuery& q, std::span<int32_t> pages);

  // A token was drawn from rows behind these pages, as far as they are kept: they are sound.
  void mark_sound(const PrefixQuery& q);
  // Rows computed from these pages are no numbers: forgets those not known to be sound, and
  // whatever continues them. Who holds one keeps it. Costs time by what is kept. Their keys.
  std::vector<PageKey> drop_unsound(const PrefixQuery& q);

  // The kept page with this text up to its end, or -1. Does not count as use.
  int32_t page_at(const PrefixQuery& q) const;

  // Gives up everything idle and forgets what is held.
  void clear();
  int size() const { return static_cast<int>(by_key_.size()); }

  void page_idle(int32_t page) override;
  void page_held(int32_t page) override;
  int32_t give_up_page() override;

 private:
  static constexpr int32_t kRoot = -1;
  struct Node {
    PageKey key;
    int32_t before = kRoot;  // the page in front
    int32_t next = 0;        // pages kept that continue this one
    uint64_t used = 0;       // when its last holder left
    bool sound = false;      // then all pages in front are, too
  };

  int32_t child(int32_t before, const PrefixQuery& q, size_t page) const;
  void add(const PrefixQuery& q, size_t i, int32_t before, int32_t page);
  void forget(int32_t page);
  void left_by_child(int32_t page);
  std::vector<int32_t> subtree(int32_t page) const;

  PageAllocator& pages_;
  std::unordered_map<PageKey, int32_t, PageKeyHash> by_key_;
  std::vector<Node> nodes_;   // by page
  std::vector<int32_t> ids_;  // of each page, to tell texts of one key apart
  std::set<std::pair<uint64_t, int32_t>> idle_leaves_;  // what may go, by last use
  uint64_t clock_ = 0;
};

}  // namespace fathom
