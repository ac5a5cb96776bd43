// Cache pages of prompts already computed, kept for requests that begin alike: the next turn of a
// conversation, the same system prompt. Latent and index rows of a token lie in the same page, so
// sharing a page shares both.
//
// Only whole pages of prompt rows are kept. A page in use is never written again (rows are appended
// behind it), and rows of generated tokens are left out because the decode form of attention
// rounds differently: so an answer does not depend on what the cache happened to hold.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "runtime/page_allocator.h"

namespace fathom {

// A short list, searched from one end to the other, the entry used last in front.
class PrefixCache {
 public:
  // Keeps at most `capacity` prompts; 0 keeps none. `pages` must outlive this object.
  PrefixCache(PageAllocator& pages, size_t capacity) : pages_(pages), capacity_(capacity) {}
  ~PrefixCache() { clear(); }
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // Pages of the longest kept prefix of `ids` that is shorter than `ids` itself (the last token
  // must be computed, its logits are wanted). The caller becomes a further holder of each.
  std::vector<int32_t> match(std::span<const int32_t> ids);

  // Keeps the whole pages of a computed prompt: ids[i] has its rows in page pages[i / 64].
  void insert(std::span<const int32_t> ids, std::span<const int32_t> pages);

  // Gives up the entry not used for longest. False when there is none.
  bool evict_one();
  void clear() {
    while (evict_one()) {
    }
  }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::vector<int32_t> ids;    // a multiple of kPageRows
    std::vector<int32_t> pages;  // held by this entry
  };
  PageAllocator& pages_;
  size_t capacity_;
  std::list<Entry> entries_;
};

}  // namespace fathom
