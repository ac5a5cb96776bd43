#include "cache/page_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <type_traits>

#include "base/check.h"

namespace fathom {
namespace {

static_assert(std::has_unique_object_representations_v<PageFileFront>);  // no padding goes to disk

constexpr std::string_view kPrefix = "fathom-", kPageEnd = ".page", kUnfinishedEnd = ".tmp";
constexpr size_t kKeyDigits = 32;

PageFileFront front_of(const PageId& id, const std::byte* payload, size_t bytes) {
  PageFileFront front;
  front.id = id;
  front.payload_bytes = bytes;
  front.payload_digest = digest(payload, bytes);
  front.front_digest = digest(&front, offsetof(PageFileFront, front_digest));
  return front;
}

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}
bool is_decimal(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

void seal_page_file(std::span<std::byte> image, const PageId& id) {
  FATHOM_CHECK(image.size() > sizeof(PageFileFront), "an image of {} bytes", image.size());
  const PageFileFront front =
      front_of(id, payload_of(image.data()), image.size() - sizeof(PageFileFront));
  std::memcpy(image.data(), &front, sizeof front);
}

std::string page_file_fault(std::span<const std::byte> file, const PageId& id, size_t payload) {
  if (file.size() < sizeof(PageFileFront))
    return fmt::format("{} bytes, shorter than its front", file.size());
  PageFileFront found;
  std::memcpy(&found, file.data(), sizeof found);
  const PageFileFront accepted;
  if (found.magic != accepted.magic) return "not a page of the cache";
  if (found.version != accepted.version)
    return fmt::format("version {}, {} is accepted", found.version, accepted.version);
  if (file.size() != page_file_bytes(payload))
    return fmt::format("{} bytes, a page has {}", file.size(), page_file_bytes(payload));
  // The front must equal the expected one; otherwise the file holds another page or is damaged.
  const PageFileFront want = front_of(id, file.data() + sizeof(PageFileFront), payload);
  if (std::memcmp(&want, file.data(), sizeof want) != 0)
    return want.payload_digest == found.payload_digest ? "another page" : "damaged rows";
  return {};
}

std::string page_file_name(PageKey key) {
  return fmt::format("{}{:016x}{:016x}{}", kPrefix, key.a, key.b, kPageEnd);
}

CacheFile kind_of_name(std::string_view name) {
  if (!name.starts_with(kPrefix)) return CacheFile::other;
  name.remove_prefix(kPrefix.size());
  if (name.size() < kKeyDigits || !is_hex(name.substr(0, kKeyDigits))) return CacheFile::other;
  name.remove_prefix(kKeyDigits);
  if (name == kPageEnd) return CacheFile::page;
  if (!name.starts_with('.') || !name.ends_with(kUnfinishedEnd) ||
      name.size() < kUnfinishedEnd.size() + 2)
    return CacheFile::other;
  name = name.substr(1, name.size() - 1 - kUnfinishedEnd.size());
  return is_decimal(name) ? CacheFile::unfinished : CacheFile::other;
}

PageKey key_of_name(std::string_view name) {
  FATHOM_CHECK(kind_of_name(name) == CacheFile::page, "{}", name);
  PageKey key;
  const char* digits = name.data() + kPrefix.size();
  std::from_chars(digits, digits + 16, key.a, 16);
  std::from_chars(digits + 16, digits + 32, key.b, 16);
  return key;
}

}  // namespace fathom
