// What the engine asks about prompts that begin alike: pages kept in memory (PrefixTree) and, where
// there is a folder for them, on disk (PrefixStore).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/prefix_store.h"
#include "runtime/prefix_tree.h"
#include "runtime/step_runner.h"

namespace fathom {

// What is known of one request's text; lives with the request.
struct PrefixState {
  std::vector<PageKey> keys;         // of its whole pages, as far as they were needed
  size_t kept = 0;                   // pages that were handed to keep()
  size_t offered = 0;                // of these, to the disk
  bool asked_disk = false;           // at most once a request
  std::shared_ptr<PageFetch> fetch;  // under way
};

// Thread-compatible: the engine thread owns it.
class Prefixes {
 public:
  // `pages` must outlive this object. With `on` false nothing is kept and nothing is found. `root`:
  // what keys start from, see cache_origin.
  Prefixes(PageAllocator& pages, bool on, PageKey root = {});
  // From now on pages are stored and looked up on disk too; `runner` has their rows. Throws Error
  // as PrefixStore does.
  void use_disk(const PrefixStoreOptions& options, StepRunner& runner);

  // The longest kept beginning of `ids`, in whole pages. Give it the tokens whose rows may be
  // reused: the last one of a text must be computed, as its logits are wanted.
  PrefixTree::Found find(PrefixState& state, std::span<const int32_t> ids);
  // The same pages, held for the caller.
  std::vector<int32_t> hold(PrefixState& state, std::span<const int32_t> ids);
  // `ids` have their rows in `pages`, computed and never to be written again: whole pages of them
  // are kept. Changes `pages` where another request's page holds the same. Cheap when there is no
  // new whole page.
  void keep(PrefixState& state, std::span<const int32_t> ids, std::span<int32_t> pages);

  // Whether pages of `ids` are on their way from the disk: worth waiting for, as reading a page
  // takes a fraction of computing it. The first call for a request starts reading what there is.
  bool awaits_disk(PrefixState& state, std::span<const int32_t> ids);
  // Takes in what has come from the disk: find() finds it then. Call before planning.
  void take_loaded();
  // When there is nothing to do but wait for awaits_disk(): sleeps for a moment at most.
  void wait_for_disk();

  const PrefixStore* store() const { return store_.get(); }  // null: none

 private:
  struct Loading {
    std::weak_ptr<PageFetch> fetch;
    size_t next = 0;  // page that comes next
  };

  PrefixQuery query(PrefixState& state, std::span<const int32_t> ids);
  void store(PrefixState& state, const PrefixQuery& q, std::span<const int32_t> pages);
  bool take_images(PageFetch& fetch, size_t& next, std::span<std::byte* const> images);

  const bool on_;
  const PageKey root_;
  PageAllocator& pages_;
  PrefixTree tree_;
  StepRunner* runner_ = nullptr;
  std::unique_ptr<PrefixStore> store_;
  std::vector<Loading> loading_;
};

}  // namespace fathom
