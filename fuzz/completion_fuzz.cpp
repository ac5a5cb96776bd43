// Any text, cut at places the input chooses: the parser neither crashes nor lets the cuts matter.
#include <cstdlib>

#include "text/completion_parser.h"
#include "text/utf8.h"

namespace {

using fathom::CompletionParser;

fathom::Message read(CompletionParser parser, std::string_view text, size_t chunk) {
  for (size_t at = 0; at < text.size(); at += chunk) {
    for (const auto& event : parser.feed(text.substr(at, chunk))) {
      if (fathom::first_invalid_utf8(event.text)) std::abort();
    }
  }
  parser.finish();
  return parser.message();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto encoding = data[0] & 1 ? fathom::Encoding::v31 : fathom::Encoding::v32;
  const bool thinking = data[0] & 2;
  const size_t chunk = 1 + data[1] % 32;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const fathom::Message whole = read({encoding, thinking}, text, size);
  const fathom::Message parts = read({encoding, thinking}, text, chunk);
  if (whole.content != parts.content || whole.reasoning_content != parts.reasoning_content ||
      whole.tool_calls != parts.tool_calls) {
    std::abort();
  }
  fathom::message_to_json(whole).dump();  // throws if a string is not UTF-8
  return 0;
}
