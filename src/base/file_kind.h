// What a file is that is not what it was taken for, and what stands in front of a text.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

// What `bytes`, the beginning of a file, obviously are where neither a text of ours nor weights
// belong: "a Git LFS pointer, not the file itself (git lfs pull fetches it)", "an HTML page ...",
// "empty". Nothing where they are not one of the things that downloads leave behind.
std::string stranger_kind(std::string_view bytes);

// `text` without the byte order mark of UTF-8 that some editors put in front of it. Throws Error
// naming `origin` for UTF-16 and UTF-32, which their marks give away.
std::string_view without_byte_order_mark(std::string_view text, std::string_view origin);

}  // namespace fathom
