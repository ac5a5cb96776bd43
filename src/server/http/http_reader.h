// Parses the bytes of one HTTP request, within limits. It knows no socket, so that tests and the
// fuzzer can feed it.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "server/http/http.h"

namespace fathom::server {

struct ReaderLimits {
  size_t max_header_bytes = 16 << 10;
  size_t max_body_bytes = 32 << 20;
};

// Reads one request. Not thread-safe.
class HttpRequestReader {
 public:
  explicit HttpRequestReader(const ReaderLimits& limits);
  ~HttpRequestReader();

  // Reads from the front of `bytes` and returns how many it has used. The caller passes the rest
  // again, with more bytes after it. Uses nothing once the request is complete: what follows is the
  // next request.
  size_t feed(std::string_view bytes);

  // Whether the request is complete or refused (request().failure).
  bool done() const;
  // Refuses the request before it is complete.
  void refuse(int status, std::string message);

  bool head_done() const;
  // Whether the client waits for "100 Continue" before it sends the body.
  bool expects_continue() const;
  size_t body_bytes() const;  // so far

  // Whether the connection may stay open after a complete request. False if it was refused, because
  // it is unknown where the next one begins.
  bool keep_alive() const;
  int version() const;  // 10 or 11

  HttpRequest& request();

 private:
  class Parser;
  std::unique_ptr<Parser> parser_;
};

// Splits a request target ("/a%20b?c=d", "http://host/a", "*") into decoded path and query; the
// path has no slash at its end and never two in a row. Returns false if it is none of these, or
// contains control characters.
bool parse_target(std::string_view target, std::string& path,
                  std::map<std::string, std::string>& query);

}  // namespace fathom::server
