// Any text, cut at places the input chooses and ended or cut off: the parser neither crashes nor
// lets the places matter, its events add up to its message, no marker comes out, and the arguments
// of a call are the beginning of a JSON object.
#include <cstdlib>

#include "text/completion_parser.h"
#include "text/json_progress.h"
#include "text/utf8.h"

namespace {

using fathom::CompletionEvent;
using fathom::CompletionParser;
using fathom::Message;

void check(bool good) {
  if (!good) std::abort();
}

void hear(Message& heard, const CompletionParser::Events& events) {
  for (const CompletionEvent& event : events) {
    check(!fathom::first_invalid_utf8(event.text));
    switch (event.kind) {
      case CompletionEvent::Kind::reasoning:
        heard.reasoning_content += event.text;
        break;
      case CompletionEvent::Kind::content:
        heard.content += event.text;
        break;
      case CompletionEvent::Kind::tool_name:
        heard.tool_calls.push_back({"call_" + std::to_string(event.call), event.text, {}});
        break;
      case CompletionEvent::Kind::tool_arguments:
        check(event.call + 1 == heard.tool_calls.size());
        heard.tool_calls.back().arguments += event.text;
        break;
      case CompletionEvent::Kind::tool_end:
        check(event.call + 1 == heard.tool_calls.size());
        break;
    }
  }
}

bool same(const Message& a, const Message& b) {
  return a.content == b.content && a.reasoning_content == b.reasoning_content &&
         a.tool_calls == b.tool_calls;
}

Message read(CompletionParser parser, std::string_view text, size_t chunk, bool cut) {
  Message heard;
  for (size_t at = 0; at < text.size(); at += chunk)
    hear(heard, parser.feed(text.substr(at, chunk)));
  hear(heard, parser.finish(cut));
  check(same(heard, parser.message()));
  check(parser.undecided() == 0);
  for (const fathom::ToolCall& call : heard.tool_calls) {
    const auto closed = fathom::closed_json_object(call.arguments);
    check(closed && fathom::OrderedJson::accept(*closed));
    check(cut || parser.unreadable_calls() > 0 || *closed == call.arguments);
  }
  return heard;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto encoding = data[0] & 1 ? fathom::Encoding::v31 : fathom::Encoding::v32;
  const bool thinking = data[0] & 2, cut = data[0] & 4;
  const size_t chunk = 1 + data[1] % 32;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const Message whole = read({encoding, thinking}, text, size, cut);
  check(same(whole, read({encoding, thinking}, text, chunk, cut)));
  fathom::message_to_json(whole).dump();  // throws if a string is not UTF-8
  return 0;
}
