// The bytes of an answer: its head, and the pieces of a stream.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "server/http/http.h"

namespace fathom::server {

struct AnswerHead {
  int status = 200;
  std::string_view content_type;  // empty: none is named
  const HttpHeaders* headers = nullptr;
  std::optional<size_t> length;  // of a whole body; none: a stream
  bool chunked = false;          // the stream is chunked; false: it ends with the connection
  bool keep_alive = true;
  bool old_client = false;  // HTTP/1.0 closes unless told otherwise

  // Control characters in names and values become blanks, so that no value can add a header line.
  void append_to(std::string& out) const;
};

void append_chunk(std::string& out, std::string_view bytes);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace fathom::server
