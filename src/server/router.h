// From a request to the handler it is for: routes, keys, CORS, the log line and the count of every
// request. What is wrong before a handler sees it is answered here.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "server/http.h"
#include "server/metrics.h"

namespace fathom::server {

// How a protocol words its errors.
enum class ErrorShape { openai, anthropic };

// {"error": {"message", "type", "param", "code"}} or {"type": "error", "error": {...}}. The type
// follows the status (invalid_request_error, authentication_error, not_found_error,
// rate_limit_error, server_error); `param` and `code` may be empty (null).
std::string error_body(ErrorShape shape, const Failure& failure, std::string_view param = {},
                       std::string_view code = {});
// error_body as the whole answer; a 429 carries Retry-After.
void send_error(HttpReply& reply, ErrorShape shape, const Failure& failure,
                std::string_view param = {}, std::string_view code = {});

struct RouterOptions {
  std::vector<std::string> api_keys;         // empty: none needed
  std::vector<std::string> allowed_origins;  // for browsers of other origins; "*": any
};

class Router {
 public:
  // `metrics` must outlive the router.
  Router(RouterOptions options, Metrics& metrics);

  struct Route {
    ErrorShape shape = ErrorShape::openai;
    bool needs_key = true;  // false: the page, /health
  };
  void add(const std::string& method, const std::string& path, HttpHandler handler, Route route);
  void add(const std::string& method, const std::string& path, HttpHandler handler) {
    add(method, path, std::move(handler), Route{});
  }

  // A handler that throws gets its request answered with 500; the message goes to the log alone.
  void handle(std::shared_ptr<const HttpRequest> request, std::shared_ptr<HttpReply> reply) const;

 private:
  struct Entry {
    HttpHandler handler;
    Route route;
  };
  RouterOptions options_;
  Metrics& metrics_;
  std::map<std::string, std::map<std::string, Entry>> routes_;  // by path, then method
};

}  // namespace fathom::server
