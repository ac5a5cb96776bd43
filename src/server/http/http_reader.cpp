// Boost.Beast parses. This file refuses what Beast accepts and a server behind a proxy must not
// accept, since the two could disagree about where a request ends: two lengths, unknown transfer
// encodings, trailers that override headers.
#include "server/http/http_reader.h"

#include <algorithm>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>

namespace fathom::server {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  return out;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// False for broken escapes and for control characters: no path here has any, and they must not get
// into logs and headers.
bool percent_decode(std::string_view text, bool plus_is_blank, std::string& out) {
  out.clear();
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      if (i + 2 >= text.size()) return false;
      const int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
      if (high < 0 || low < 0) return false;
      c = static_cast<char>(high * 16 + low);
      i += 2;
    } else if (c == '+' && plus_is_blank) {
      c = ' ';
    }
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return false;
    out += c;
  }
  return true;
}

// Whether the first line of unreadable input names another version of HTTP: "GET / HTTP/2.0".
bool names_other_version(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, bytes.find('\r'));
  const size_t at = line.rfind(" HTTP/");
  return at != std::string_view::npos && line.size() > at + 6 && line[at + 6] >= '0' &&
         line[at + 6] <= '9';
}

}  // namespace

namespace {

// "//v1/models/" as "/v1/models": what clients make of a base address that ends in a slash.
void tidy_slashes(std::string& path) {
  const auto both = [](char a, char b) { return a == '/' && b == '/'; };
  path.erase(std::unique(path.begin(), path.end(), both), path.end());
  if (path.size() > 1 && path.back() == '/') path.pop_back();
}

}  // namespace

bool parse_target(std::string_view target, std::string& path,
                  std::map<std::string, std::string>& query) {
  if (target == "*") {
    path = "*";
    return true;
  }
  const std::string scheme = lower(target.substr(0, 8));
  if (scheme.starts_with("http://") || scheme == "https://") {
    // Absolute form, as sent to a proxy: the host is ignored.
    const size_t host = scheme.starts_with("http://") ? 7 : 8;
    const size_t slash = std::min(target.find_first_of("/?", host), target.size());
    if (slash == host) return false;
    target.remove_prefix(slash);
    if (!target.starts_with('/')) {
      path = "/";
      if (target.empty()) return true;
    }
  } else if (!target.starts_with('/')) {
    return false;
  }
  target = target.substr(0, target.find('#'));
  const size_t mark = std::min(target.find('?'), target.size());
  if (mark > 0 && !percent_decode(target.substr(0, mark), false, path)) return false;
  tidy_slashes(path);
  for (size_t at = mark + 1; at < target.size();) {
    const size_t end = std::min(target.find('&', at), target.size());
    const std::string_view pair = target.substr(at, end - at);
    at = end + 1;
    if (pair.empty()) continue;
    const size_t equals = std::min(pair.find('='), pair.size());
    std::string name, value;
    if (!percent_decode(pair.substr(0, equals), true, name)) return false;
    if (equals < pair.size() && !percent_decode(pair.substr(equals + 1), true, value)) return false;
    query.insert_or_assign(std::move(name), std::move(value));
  }
  return true;
}

namespace {

// What of a request Beast has refused. Its own words are meant for programmers.
std::string_view refused_part(const beast::error_code& ec) {
  switch (static_cast<http::error>(ec.value())) {
    case http::error::bad_method:
      return "method";
    case http::error::bad_target:
      return "target";
    case http::error::bad_version:
      return "version";
    case http::error::bad_field:
      return "name of a header field";
    case http::error::bad_value:
    case http::error::bad_obs_fold:
      return "value of a header field";
    case http::error::bad_content_length:
    case http::error::multiple_content_length:
      return "Content-Length";
    case http::error::bad_transfer_encoding:
      return "Transfer-Encoding";
    case http::error::bad_chunk:
    case http::error::bad_chunk_extension:
      return "length of a chunk";
    default:
      return "end of a line";
  }
}

}  // namespace

class HttpRequestReader::Parser final : public http::basic_parser<true> {
 public:
  explicit Parser(const ReaderLimits& limits) : limits_(limits) {
    header_limit(static_cast<uint32_t>(std::min<size_t>(limits.max_header_bytes, UINT32_MAX)));
    body_limit(limits.max_body_bytes);
    eager(true);
  }

  size_t feed(std::string_view bytes) {
    if (done()) return 0;
    beast::error_code ec;
    const size_t used = put(boost::asio::const_buffer(bytes.data(), bytes.size()), ec);
    if (ec && ec != http::error::need_more) {
      refuse_for(ec, bytes);
    } else if (!is_done() && bytes.size() - used > limits_.max_header_bytes) {
      // Beast has no limit of its own for the line in front of a chunk.
      refuse(is_header_done() ? 400 : 431,
             fmt::format("a line of more than {} bytes", limits_.max_header_bytes));
    }
    return used;
  }

  bool done() const { return is_done() || request_.failure; }
  bool expects_continue() const { return expects_continue_ && is_header_done() && !done(); }

  void refuse(int status, std::string message) {
    if (!request_.failure) request_.failure = Failure{status, std::move(message)};
  }

  HttpRequest request_;
  int version_ = 11;

 private:
  void refuse_for(const beast::error_code& ec, std::string_view bytes) {
    if (ec == http::error::header_limit)
      return refuse(
          431, fmt::format("the request's head has more than {} bytes", limits_.max_header_bytes));
    if (ec == http::error::body_limit)
      return refuse(413, fmt::format("the request's body has more than the {} bytes that are "
                                     "accepted",
                                     limits_.max_body_bytes));
    if (ec == http::error::bad_version && names_other_version(bytes))
      return refuse(505, "this server speaks HTTP/1.1 and HTTP/1.0");
    refuse(400, fmt::format("this is no HTTP request that can be answered: the {} is not valid",
                            refused_part(ec)));
  }

  // Stops the parser; `status` and `message` are those of refuse().
  void stop_for(beast::error_code& ec, int status, std::string message) {
    refuse(status, std::move(message));
    ec = http::error::bad_field;
  }

  // Beast limits only the bytes of one call, so the bytes of all calls are added up here.
  bool head_grows(size_t bytes) {
    head_bytes_ += bytes;
    return head_bytes_ <= limits_.max_header_bytes;
  }

  void on_request_impl(http::verb, beast::string_view method, beast::string_view target,
                       int version, beast::error_code& ec) override {
    request_.method = std::string(method);
    version_ = version;
    if (!head_grows(method.size() + target.size() + 12)) {
      ec = http::error::header_limit;
      return;
    }
    const std::string_view text(target.data(), target.size());
    if (!server::parse_target(text, request_.path, request_.query) ||
        (text == "*" && request_.method != "OPTIONS"))
      stop_for(ec, 400, "the request's target is no path that can be read");
  }

  void on_field_impl(http::field field, beast::string_view name, beast::string_view value,
                     beast::error_code& ec) override {
    if (!head_grows(name.size() + value.size() + 4)) {
      ec = http::error::header_limit;
      return;
    }
    if (is_header_done()) return;  // trailers are not used
    auto [it, fresh] = request_.headers.try_emplace(lower({name.data(), name.size()}), value);
    if (field == http::field::transfer_encoding) {
      if (!fresh || version_ < 11)
        return stop_for(ec, 400, "Transfer-Encoding twice, or in HTTP/1.0");
      if (!beast::iequals(value, "chunked"))
        return stop_for(ec, 501, "the only Transfer-Encoding that is accepted is chunked");
    } else if (field == http::field::content_length) {
      if (!fresh || value.find_first_not_of("0123456789") != beast::string_view::npos)
        return stop_for(ec, 400, "Content-Length must be one number");
    } else if (field == http::field::host && !fresh) {
      return stop_for(ec, 400, "more than one Host");
    } else if (field == http::field::expect) {
      if (!beast::iequals(value, "100-continue"))
        return stop_for(ec, 417, "the only Expect that is met is 100-continue");
      expects_continue_ = version_ >= 11;
    }
    if (!fresh) it->second.append(", ").append(value);
  }

  void on_header_impl(beast::error_code& ec) override {
    if (version_ >= 11 && !request_.headers.contains("host"))
      stop_for(ec, 400, "HTTP/1.1 needs a Host");
  }

  size_t on_body_impl(beast::string_view body, beast::error_code&) override {
    request_.body.append(body.data(), body.size());
    return body.size();
  }
  size_t on_chunk_body_impl(uint64_t, beast::string_view body, beast::error_code& ec) override {
    return on_body_impl(body, ec);
  }

  void on_response_impl(int, beast::string_view, int, beast::error_code&) override {}
  void on_body_init_impl(const boost::optional<uint64_t>&, beast::error_code&) override {}
  void on_chunk_header_impl(uint64_t, beast::string_view, beast::error_code&) override {}
  void on_finish_impl(beast::error_code&) override {}

  const ReaderLimits limits_;
  size_t head_bytes_ = 0;
  bool expects_continue_ = false;
};

HttpRequestReader::HttpRequestReader(const ReaderLimits& limits)
    : parser_(std::make_unique<Parser>(limits)) {}
HttpRequestReader::~HttpRequestReader() = default;

size_t HttpRequestReader::feed(std::string_view bytes) { return parser_->feed(bytes); }
bool HttpRequestReader::done() const { return parser_->done(); }
void HttpRequestReader::refuse(int status, std::string message) {
  parser_->refuse(status, std::move(message));
}
bool HttpRequestReader::head_done() const { return parser_->is_header_done(); }
bool HttpRequestReader::expects_continue() const { return parser_->expects_continue(); }
size_t HttpRequestReader::body_bytes() const { return parser_->request_.body.size(); }
bool HttpRequestReader::keep_alive() const {
  return !parser_->request_.failure && parser_->is_done() && parser_->keep_alive();
}
int HttpRequestReader::version() const { return parser_->version_; }
HttpRequest& HttpRequestReader::request() { return parser_->request_; }

}  // namespace fathom::server
