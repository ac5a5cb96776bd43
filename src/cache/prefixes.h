// What the engine asks about prompts that begin alike: pages kept in memory (PrefixTree) and, where
// there is a folder for them, on disk (PrefixStore).
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

// What is known of one request's text; lives with the request.
struct PrefixState {
  std::vector<PageKey> keys;         // of its whole pages, as far as they were needed
  size_t kept = 0;                   // pages that were handed to keep()
  size_t sound = 0;                  // of these, known to be sound
  size_t queued = 0;                 // of these, to be stored on disk
  bool asked_disk = false;           // at most once a request
  std::shared_ptr<PageFetch> fetch;  // under way
  std::chrono::steady_clock::time_point asked;
};

// Thread-compatible: the engine thread owns it.
class Prefixes {
 public:
  // `pages` must outlive this object. With `on` false nothing is kept and nothing is found. `root`:
  // what keys start from, see cache_origin.
  Prefixes(PageAllocator& pages, bool on, PageKey root = {});
  // From now on pages are stored and looked up on disk too; `rows` reads and writes what they hold.
  // Throws Error as PrefixStore does. `patience`: how long a request waits for the next page.
  void use_disk(const PrefixStoreOptions& options, PageRows& rows,
                std::chrono::milliseconds patience);

  // The longest kept beginning of `ids`, in whole pages. Give it the tokens whose rows may be
  // reused: the last one of a text must be computed, as its logits are wanted.
  PrefixTree::Found find(PrefixState& state, std::span<const int32_t> ids);
  // The same pages, held for the caller.
  std::vector<int32_t> hold(PrefixState& state, std::span<const int32_t> ids);
  // `ids` have their rows in `pages`, computed and never to be written again: whole pages of them
  // are kept. Changes `pages` where another request's page holds the same. Cheap when there is no
  // new whole page. `sound`: a token was drawn from the logits behind them. Not before that do
  // pages go to disk.
  void keep(PrefixState& state, std::span<const int32_t> ids, std::span<int32_t> pages, bool sound);
  // What came out behind these rows was broken: those not known to be sound are kept no longer, in
  // memory or on disk.
  void discard(PrefixState& state, std::span<const int32_t> ids);

  // Hands pages to the disk as far as it has room for them: call once a step. They are stored after
  // their request has ended, too, as long as they are kept in memory.
  void store_some();
  // The same when there is nothing else to do: waits a moment for room. False: nothing is left to
  // store, or the disk takes nothing.
  bool store_rest();
  // The device has failed: nothing can be read from it any more.
  void store_no_more();

  // Whether pages of `ids` are on their way from the disk: worth waiting for, as reading a page
  // takes a fraction of computing it. The first call for a request starts reading what there is.
  bool awaits_disk(PrefixState& state, std::span<const int32_t> ids);
  // Takes in what has come from the disk: find() finds it then. Call before planning.
  void take_loaded();
  // When there is nothing to do but wait for awaits_disk(): sleeps for a moment at most.
  void wait_for_disk();

  const PrefixStore* store() const { return store_.get(); }  // null: none
  int64_t pages_looked_up() const { return pages_looked_up_; }

 private:
  using Clock = std::chrono::steady_clock;

  // A text with pages to store, from `next` on.
  struct Unstored {
    std::vector<int32_t> ids;
    std::vector<PageKey> keys;
    size_t next = 0;
  };
  struct Loading {
    std::weak_ptr<PageFetch> fetch;
    size_t next = 0;  // page that comes next
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
  Clock::time_point last_loaded_;  // when a page last came from the disk,
  bool given_up_ = false;          // and whether somebody has stopped waiting since
  std::deque<Unstored> unstored_;  // oldest first
  size_t unstored_pages_ = 0;      // of these texts, those that need no storing included
  Clock::time_point last_stored_;  // when the disk last took a page
  int64_t pages_looked_up_ = 0;
};

}  // namespace fathom
