// A page of the cache as a file: a header ("front") that says which page it is, then the rows. The
// front is determined by the page's identity and its rows. A reader computes the front that the
// file must have and compares; it trusts no field of the file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "cache/page_key.h"

namespace fathom {

// The version of the layout below and of the rows. Raise it with every change to kernels or
// numerics that changes a bit of the cache.
inline constexpr uint32_t kPageFileVersion = 1;

// Identifies a page. `root` is the key that every text of one engine starts from. It identifies
// everything that the bits of rows depend on: checkpoint, numerics, kernels
// (runtime/cache_origin.h).
struct PageId {
  PageKey root, before, key;
  std::array<int32_t, kPageRows> ids = {};
};

struct PageFileFront {
  std::array<char, 8> magic = {'f', 'a', 't', 'h', 'o', 'm', 'K', 'V'};
  uint32_t version = kPageFileVersion;
  uint32_t rows = kPageRows;
  PageId id;
  uint64_t payload_bytes = 0;
  PageKey payload_digest;
  std::array<uint64_t, 3> reserved = {};  // zero; the payload starts on a cache line
  PageKey front_digest;                   // of all before
};
static_assert(sizeof(PageFileFront) == 384 && sizeof(PageFileFront) % 64 == 0);
static_assert(std::endian::native == std::endian::little);  // the files' byte order

// A file image: front, payload. Buffers for one have this size.
constexpr size_t page_file_bytes(size_t payload) { return sizeof(PageFileFront) + payload; }
inline std::byte* payload_of(std::byte* image) { return image + sizeof(PageFileFront); }

// Writes the front of an image whose payload is in place.
void seal_page_file(std::span<std::byte> image, const PageId& id);

// Says why these bytes are not the file of page `id` with `payload` bytes of rows; empty if they
// are.
std::string page_file_fault(std::span<const std::byte> file, const PageId& id, size_t payload);

// Names in a cache folder: "fathom-" and the key, then ".page", or ".NUMBER.tmp" for one being
// written.
std::string page_file_name(PageKey key);
enum class CacheFile : uint8_t { other, page, unfinished };
CacheFile kind_of_name(std::string_view name);
// Returns the key in a name of kind page.
PageKey key_of_name(std::string_view name);

}  // namespace fathom
