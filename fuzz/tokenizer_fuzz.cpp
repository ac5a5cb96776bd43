// Any file as a tokenizer.json: read or refused with an Error. A file that is accepted must give
// back the text it encodes.
#include <cstdlib>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = fathom::Tokenizer::from_json(json, "fuzz");
    const std::string text = "It's 12345 words,\n\n  né 中文 <x> \t🙂";
    if (tokenizer.decode(tokenizer.encode_plain(text)) != text) std::abort();
  } catch (const fathom::Error&) {
  }
  return 0;
}
