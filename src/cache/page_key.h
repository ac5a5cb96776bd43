// Keys that name a page of the cache by its content, and checksums of bytes on disk. The hash is
// our own mix of multiplications and rotations. It is fast and spreads well, but somebody who
// searches for collisions will find them: code that relies on a key compares the tokens as well.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "numerics/cache_rows.h"

namespace fathom {

// 128 bits, from two mixes that share no constant.
struct PageKey {
  uint64_t a = 0, b = 0;
  bool operator==(const PageKey&) const = default;
};

struct PageKeyHash {
  size_t operator()(const PageKey& k) const { return static_cast<size_t>(k.a); }
};

namespace detail {

// Each is a bijection of 64 bits: what differs before differs after.
constexpr uint64_t kMixA = 0xd1342543de82ef95, kMixB = 0x9fb21c651e98df25;
constexpr uint64_t mix_a(uint64_t x) {
  x = (x ^ (x >> 32)) * kMixA;
  return (x ^ (x >> 29)) * kMixB;
}
constexpr uint64_t mix_b(uint64_t x) {
  x = (x ^ std::rotr(x, 23) ^ std::rotr(x, 47)) * 0xa0761d6478bd642f;
  return (x ^ (x >> 31)) * 0xe7037ed1a0b428db;
}

}  // namespace detail

// Returns the key of a text with key `before` and one more value.
constexpr PageKey extended(PageKey before, uint64_t value) {
  return {detail::mix_a(std::rotl(before.a, 27) ^ value) + value,
          detail::mix_b(std::rotl(before.b, 41) + (value ^ 0x589965cc75374cc3))};
}

// Returns the key of a page: it depends on the page's tokens and on everything before them.
inline PageKey page_key(PageKey before, std::span<const int32_t> ids) {
  for (size_t i = 0; i + 1 < ids.size(); i += 2)
    before = extended(
        before, uint64_t{static_cast<uint32_t>(ids[i])} << 32 | static_cast<uint32_t>(ids[i + 1]));
  if (ids.size() % 2 == 1) before = extended(before, static_cast<uint32_t>(ids.back()));
  return extended(before, ids.size());
}

// Appends to `keys` until every whole page of `ids` has its key: key i is page i's. `root` is the
// key that all texts of one engine start from. A text only grows, so existing keys stay valid.
inline void extend_keys(std::vector<PageKey>& keys, PageKey root, std::span<const int32_t> ids) {
  for (size_t page = keys.size(); page < ids.size() / kPageRows; ++page)
    keys.push_back(page_key(keys.empty() ? root : keys.back(),
                            ids.subspan(page * kPageRows, static_cast<size_t>(kPageRows))));
}

// Key of any bytes; also their checksum. Four lanes, so that it runs at the speed of memory; a
// change of one 8-byte word always changes the result; other changes are missed with probability
// 2^-64.
PageKey digest(const void* data, size_t bytes);

}  // namespace fathom
