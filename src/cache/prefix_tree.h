// Cache pages of computed prompts, kept for later requests with the same beginning: the next turn
// of a conversation, a shared system prompt. A page holds the latent and the index rows of its
// tokens, so sharing a page shares both.
//
// A page is identified by its tokens and all tokens before them. So the kept pages form a tree, and
// a prompt is a path down from its root. Only whole pages of prompt rows are kept. A kept page is
// never written again, but for rows that are the same: new rows are appended in other pages. Rows
// of generated tokens are kept only if decode rounds as prefill does, so an answer does not depend
// on what the cache holds.
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

// Thread-compatible: the engine thread owns it, as it owns the allocator. Kept pages without
// holders count as free there. They are evicted least recently used first, and no page before the
// pages that continue it. Time grows with the pages of the text asked about, not with the size of
// the tree; evicting a page takes logarithmic time in the number of idle pages.
class PrefixTree final : public PageKeeper {
 public:
  // `pages` must outlive this object and have no other keeper.
  explicit PrefixTree(PageAllocator& pages);
  ~PrefixTree() override { clear(); }
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  // A kept prefix: its pages, and how many of them (the last ones) are idle now. An idle page no
  // longer counts as free once it is held.
  struct Found {
    int64_t pages = 0, idle = 0;
    std::vector<int32_t> path;  // the pages, in order
  };
  // Returns the longest kept prefix of `q`, with at most as many pages as `q` has keys.
  Found find(const PrefixQuery& q) const;
  // As find(), but the caller becomes a holder of each page.
  std::vector<int32_t> hold(const PrefixQuery& q);

  // Keeps the pages of a computed text. pages[i] holds the rows of page i, one for each key of `q`;
  // the caller holds them all. Where the tree has a page already, the caller gets that one instead
  // (its rows are the same), and its own is freed. So a holder of a kept page also holds all pages
  // before it, and idle pages can be evicted from the leaves. True when every page of the text is
  // now kept.
  // The first `complete` of them have all rows that such pages can have; the others lack those of
  // the MTP block.
  bool insert(const PrefixQuery& q, std::span<int32_t> pages, size_t complete);
  // Returns how many of a text's first kept pages have all rows.
  int64_t complete_pages(std::span<const int32_t> pages) const;

  // Marks the kept pages of `q` as verified: a token was drawn from logits computed on top of them,
  // so their rows are numbers.
  void mark_verified(const PrefixQuery& q);
  // For a text whose logits were not numbers: forgets its pages that are not verified, and every
  // page that continues them. Holders keep theirs. Returns the keys of what was forgotten. Takes
  // time linear in the size of the tree.
  std::vector<PageKey> drop_unverified(const PrefixQuery& q);

  // The kept page that ends this text, or -1. Does not count as a use.
  int32_t page_at(const PrefixQuery& q) const;

  // Frees every idle page, and no longer keeps the held ones.
  void clear();
  int size() const { return static_cast<int>(by_key_.size()); }

  void page_idle(int32_t page) override;
  void page_held(int32_t page) override;
  int32_t give_up_page() override;

 private:
  static constexpr int32_t kRoot = -1;
  struct Node {
    PageKey key;
    int32_t before = kRoot;  // the page before this one
    int32_t next = 0;        // how many kept pages continue this one
    uint64_t used = 0;       // when its last holder left
    bool verified = false;   // and so are all pages before it
    bool complete = true;    // has all rows
  };

  int32_t child(int32_t before, const PrefixQuery& q, size_t page) const;
  void add(const PrefixQuery& q, size_t i, int32_t before, int32_t page);
  void forget(int32_t page);
  void left_by_child(int32_t page);
  std::vector<int32_t> subtree(int32_t page) const;

  PageAllocator& pages_;
  std::unordered_map<PageKey, int32_t, PageKeyHash> by_key_;
  std::vector<Node> nodes_;   // by page
  std::vector<int32_t> ids_;  // of each page: compared, as two texts might have one key
  std::set<std::pair<uint64_t, int32_t>> idle_leaves_;  // what may be evicted, by last use
  uint64_t clock_ = 0;
};

}  // namespace fathom
