// Values as bytes, for messages between processes of the same build on machines of one kind: a
// value is sent as its bytes in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace fathom {

class MessageWriter {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
    append(&value, sizeof(T));
  }
  // Writes the number of values, then the values.
  template <class T>
  void put_all(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
    put<uint64_t>(values.size());
    append(values.data(), values.size_bytes());
  }
  void put_text(std::string_view text) { put_all(std::span<const char>(text)); }

  void clear() { bytes_.clear(); }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  void append(const void* from, size_t n) {
    const auto* begin = static_cast<const std::byte*>(from);
    bytes_.insert(bytes_.end(), begin, begin + n);
  }
  std::vector<std::byte> bytes_;
};

// Reads what a MessageWriter has written, in the same order. Throws Error if the message is too
// short.
class MessageReader {
 public:
  explicit MessageReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <class T>
  T get() {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_pointer_v<T>);
    T value;
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }
  template <class T>
  void get_all(std::vector<T>& into) {
    const uint64_t n = get<uint64_t>();
    if (n > rest_.size() / sizeof(T)) fail("a message of another process breaks off");
    into.resize(n);
    if (n > 0) std::memcpy(into.data(), take(n * sizeof(T)), n * sizeof(T));
  }
  std::string get_text() {
    std::vector<char> text;
    get_all(text);
    return {text.begin(), text.end()};
  }

 private:
  const std::byte* take(size_t n) {
    if (n > rest_.size()) fail("a message of another process breaks off");
    const std::byte* at = rest_.data();
    rest_ = rest_.subspan(n);
    return at;
  }
  std::span<const std::byte> rest_;
};

}  // namespace fathom
