// Prefix caching as the engine uses it: pages kept in memory (PrefixTree) and, with a cache folder,
// on disk (PrefixStore).
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cache/page_rows.h"
#include "cache/prefix_store.h"
#include "cache/prefix_tree.h"

namespace fathom {

// What is known about one request's text. Part of the request.
struct PrefixState {
  std::vector<PageKey> keys;         // of its whole pages, as far as they have been needed
  size_t kept = 0;                   // pages that were passed to keep()
  size_t complete = 0;               // of these, the ones with all rows
  size_t verified = 0;               // of these, the verified ones
  size_t queued = 0;                 // of these, the ones queued for the disk
  bool asked_disk = false;           // done at most once per request
  std::shared_ptr<PageFetch> fetch;  // in progress, or null
  std::chrono::steady_clock::time_point asked;
};

// Thread-compatible: the engine thread owns it.
class Prefixes {
 public:
  // `pages` must outlive this object. With `on` false, nothing is kept or found. `root` is the key
  // that every text starts from, see cache_origin().
  Prefixes(PageAllocator& pages, bool on, PageKey root = {});
  // Stores and looks up pages on disk, too, from now on. `rows` reads and writes their content.
  // Throws Error as PrefixStore does. A request waits no longer than `patience` for its next page.
  void use_disk(const PrefixStoreOptions& options, PageRows& rows,
                std::chrono::milliseconds patience);

  // Returns the longest kept prefix of `ids`, in whole pages. The caller passes only tokens whose
  // rows may be reused: the last token of a text must be computed, as its logits are wanted.
  PrefixTree::Found find(PrefixState& state, std::span<const int32_t> ids);
  // As find(), but the caller becomes a holder of the pages.
  std::vector<int32_t> hold(PrefixState& state, std::span<const int32_t> ids);
  // Keeps the whole pages of `ids`, whose rows are computed, lie in `pages` and are never written
  // again. Replaces a page in `pages` where another request's page has the same content. Costs
  // little when no page is new. `verified`: a token was drawn from the logits computed on top of
  // them. Pages go to disk only after that. Pages of tokens from `complete` on lack rows of the MTP
  // block: they are kept in memory alone, until they are computed again.
  void keep(PrefixState& state, std::span<const int32_t> ids, std::span<int32_t> pages,
            bool verified, int64_t complete);
  // Returns how many of a text's first kept pages lack nothing.
  int64_t complete_pages(std::span<const int32_t> pages) const {
    return tree_.complete_pages(pages);
  }
  // For a text whose logits were not numbers: its pages that are not verified are no longer kept,
  // in memory or on disk.
  void discard(PrefixState& state, std::span<const int32_t> ids);

  // Hands pages to the store as far as it has room. Called once per step. Pages whose request has
  // ended are stored, too, as long as they are kept in memory.
  void store_some();
  // The same for an engine with nothing else to do: waits a moment for room. Returns false when
  // nothing is left to store or when the disk takes no pages.
  bool store_rest();
  // Stops storing. Called when the device has failed: pages can no longer be read from it.
  void store_no_more();

  // Whether pages of `ids` are being read from the disk. Waiting for them pays: reading a page
  // takes a fraction of the time of computing it. The first call for a request starts the reading.
  bool awaits_disk(PrefixState& state, std::span<const int32_t> ids);
  // Adds the pages that have been read to those kept in memory, where find() finds them. Called
  // before each step is planned.
  void take_loaded();
  // Waits a moment at most for a page to be read: for an engine that has nothing else to do.
  void wait_for_disk();

  const PrefixStore* store() const { return store_.get(); }  // null: none
  int64_t pages_looked_up() const { return pages_looked_up_; }

 private:
  using Clock = std::chrono::steady_clock;

  // A text whose pages from number `next` on are to be stored.
  struct Unstored {
    std::vector<int32_t> ids;
    std::vector<PageKey> keys;
    size_t next = 0;
  };
  struct Loading {
    std::weak_ptr<PageFetch> fetch;
    size_t next = 0;  // the page that comes next
  };

  PrefixQuery query(PrefixState& state, std::span<const int32_t> ids);
  void queue_for_disk(PrefixState& state, const PrefixQuery& q);
  bool store_next(Unstored& text);
  void drop_oldest_unstored();
  bool may_ask_disk();
  bool take_images(PageFetch& fetch, size_t& next, std::span<std::byte* const> images);

  const bool on_;
  const PageKey root_;
  PageAllocator& pages_;
  PrefixTree tree_;
  PageRows* rows_ = nullptr;
  std::unique_ptr<PrefixStore> store_;
  std::vector<Loading> loading_;
  std::chrono::milliseconds patience_{};
  Clock::time_point last_loaded_;  // when a page was last read from the disk,
  bool given_up_ = false;          // and whether a request has stopped waiting since
  std::deque<Unstored> unstored_;  // oldest first
  size_t unstored_pages_ = 0;      // of these texts, including pages that need no storing
  Clock::time_point last_stored_;  // when the disk last took a page
  int64_t pages_looked_up_ = 0;
};

}  // namespace fathom
