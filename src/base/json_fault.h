// What is wrong with text that was expected to be JSON, in this program's own words: those of the
// library are about its parser, and clients of the server would read them.
#pragma once

#include <string_view>

namespace fathom {

// Throws Error "{where}: not valid JSON ...", with the offset of the byte where it ends being JSON
// and what stands there; for a known kind of other file, with that kind (base/file_kind.h). To be
// called with text that the JSON library has refused.
[[noreturn]] void fail_json(std::string_view text, std::string_view where);

}  // namespace fathom
