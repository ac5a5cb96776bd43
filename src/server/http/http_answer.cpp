#include "server/http/http_answer.h"

#include <fmt/format.h>

#include <boost/beast/http/status.hpp>
#include <ctime>

namespace fathom::server {
namespace {

void append_clean(std::string& out, std::string_view text) {
  for (char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
}

void append_date(std::string& out) {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  const size_t n = std::strftime(text, sizeof(text), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &utc);
  out.append(text, n);
}

}  // namespace

void AnswerHead::append_to(std::string& out) const {
  namespace http = boost::beast::http;
  // obsolete_reason knows 529 and other numbers outside the registry as "<unknown-status>".
  const http::status known = http::int_to_status(static_cast<unsigned>(status));
  const std::string_view reason = known == http::status::unknown
                                      ? std::string_view(status >= 500 ? "Server Error" : "Other")
                                      : std::string_view(http::obsolete_reason(known).data(),
                                                         http::obsolete_reason(known).size());
  fmt::format_to(std::back_inserter(out), "HTTP/1.1 {} {}\r\n", status, reason);
  append_date(out);
  if (!content_type.empty()) {
    out += "Content-Type: ";
    append_clean(out, content_type);
    out += "\r\n";
  }
  // These have no body. A Content-Length of a 304 would be that of the body it replaces.
  const bool bodyless = status < 200 || status == 204 || status == 304;
  if (length && !bodyless)
    fmt::format_to(std::back_inserter(out), "Content-Length: {}\r\n", *length);
  if (chunked && !bodyless) out += "Transfer-Encoding: chunked\r\n";
  if (!keep_alive)
    out += "Connection: close\r\n";
  else if (old_client)
    out += "Connection: keep-alive\r\n";
  if (headers != nullptr) {
    for (const auto& [name, value] : *headers) {
      append_clean(out, name);
      out += ": ";
      append_clean(out, value);
      out += "\r\n";
    }
  }
  out += "\r\n";
}

void append_chunk(std::string& out, std::string_view bytes) {
  if (bytes.empty()) return;  // a chunk of nothing is the last one
  fmt::format_to(std::back_inserter(out), "{:x}\r\n", bytes.size());
  out += bytes;
  out += "\r\n";
}

}  // namespace fathom::server
