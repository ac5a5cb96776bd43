// How large JSON from outside may be. Text beyond these limits is refused before it is parsed: each
// value takes many times the memory of its text, a key is looked for among all others of its
// object, and what is read is written again by functions that call themselves for each level.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom {

inline constexpr int kMaxJsonDepth = 64;
inline constexpr int64_t kMaxJsonValues = 2'000'000;
inline constexpr int64_t kMaxJsonMembers = 2048;  // of one object

// What of `text` is beyond a limit, and where: "nested deeper than 64 levels at byte 64". Empty
// where nothing is, which does not mean that `text` is JSON.
std::string beyond_json_limits(std::string_view text);

}  // namespace fathom
