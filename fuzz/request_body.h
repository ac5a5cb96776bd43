// What the targets of request bodies share: bytes as JSON within the server's limits, then both
// encodings, as a server of a small model would read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "server/api/json_request.h"
#include "server/service.h"

namespace fathom::server {

// Calls read(body, options) once an encoding; bytes that are no JSON are refused before.
template <class Read>
void fuzz_request_body(const uint8_t* data, size_t size, const Read& read) {
  OrderedJson body;
  try {
    body = parse_json_body(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const Error&) {
    return;
  }
  for (const Encoding encoding : {Encoding::v31, Encoding::v32}) {
    ServiceOptions options;
    options.model_names = {"fathom"};
    options.encoding = encoding;
    options.vocab = 1000;
    read(body, options);
  }
}

}  // namespace fathom::server
