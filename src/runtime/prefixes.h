// What the engine asks about prompts that begin alike: the pages kept in memory (PrefixTree).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/prefix_tree.h"

namespace fathom {

// What is known of one request's text; lives with the request.
struct PrefixState {
  std::vector<PageKey> keys;  // of its whole pages, as far as they were needed
  size_t kept = 0;            // pages that were handed to keep()
};

// Thread-compatible: the engine thread owns it.
class Prefixes {
 public:
  // `pages` must outlive this object. With `on` false nothing is kept and nothing is found.
  Prefixes(PageAllocator& pages, bool on);

  // The longest kept beginning of `ids`, in whole pages. Give it the tokens whose rows may be
  // reused: the last one of a text must be computed, as its logits are wanted.
  PrefixTree::Found find(PrefixState& state, std::span<const int32_t> ids);
  // The same pages, held for the caller.
  std::vector<int32_t> hold(PrefixState& state, std::span<const int32_t> ids);
  // `ids` have their rows in `pages`, computed and never to be written again: whole pages of them
  // are kept. Changes `pages` where another request's page holds the same. Cheap when there is no
  // new whole page.
  void keep(PrefixState& state, std::span<const int32_t> ids, std::span<int32_t> pages);

 private:
  PrefixQuery query(PrefixState& state, std::span<const int32_t> ids);

  const bool on_;
  const PageKey root_;
  PrefixTree cache_;
};

}  // namespace fathom
