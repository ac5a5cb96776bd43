#include "cache/page_key.h"

namespace fathom {

PageKey digest(const void* data, size_t bytes) {
  const auto* at = static_cast<const std::byte*>(data);
  uint64_t lanes[4] = {detail::mix_a(1), detail::mix_a(2), detail::mix_a(3), detail::mix_a(4)};
  // A step of a lane: xor, rotate and an odd factor, each of them a bijection.
  auto step = [](uint64_t lane, uint64_t word) {
    return std::rotl(lane ^ word, 31) * detail::kMixA;
  };
  size_t left = bytes;
  for (; left >= 32; left -= 32, at += 32) {
    uint64_t words[4];
    std::memcpy(words, at, 32);
    for (int i = 0; i < 4; ++i) lanes[i] = step(lanes[i], words[i]);
  }
  for (int i = 0; left > 0; ++i) {
    uint64_t word = 0;
    const size_t n = left < 8 ? left : 8;
    std::memcpy(&word, at, n);
    lanes[i] = step(lanes[i], word);
    at += n;
    left -= n;
  }
  PageKey key{bytes, ~uint64_t{bytes}};
  for (uint64_t lane : lanes) key = extended(key, lane);
  return key;
}

}  // namespace fathom
