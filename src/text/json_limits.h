// Limits of JSON from clients and models. Text beyond them is refused before it is parsed. A parsed
// value takes many times the memory of its text; a key is searched among all keys of its object;
// values are written by functions that recurse once per level.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom {

inline constexpr int kMaxJsonDepth = 64;
inline constexpr int64_t kMaxJsonValues = 2'000'000;
inline constexpr int64_t kMaxJsonMembers = 2048;  // of one object

// Says which limit `text` exceeds and where: "nested deeper than 64 levels at byte 64". Empty if it
// exceeds none, which does not mean that `text` is JSON.
std::string beyond_json_limits(std::string_view text);

}  // namespace fathom
