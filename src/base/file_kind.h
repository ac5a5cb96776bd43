// Recognises files that cannot be what a command expects, and removes byte order marks from texts.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

// Names what a file is, by its first `bytes`, if a failed download left it in the place of a text
// or of weights: "a Git LFS pointer, not the file itself (git lfs pull fetches it)", "an HTML page
// ...", "empty". Returns "" for every other file.
std::string unexpected_file_kind(std::string_view bytes);

// Returns `text` without UTF-8's byte order mark, which some editors write. Throws Error naming
// `origin` where the mark is that of UTF-16 or UTF-32.
std::string_view without_byte_order_mark(std::string_view text, std::string_view origin);

}  // namespace fathom
