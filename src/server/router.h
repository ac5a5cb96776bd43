// Router: finds the handler of a request. Before that it checks host, key and CORS, and answers
// requests that fail. It writes a log line and counts a metric for every request.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "server/http/http.h"
#include "server/metrics.h"
#include "server/server_log.h"

namespace fathom::server {

// The form of a protocol's errors.
enum class ErrorShape { openai, anthropic };

// {"error": {"message", "type", "param", "code"}} or {"type": "error", "error": {...}}. The type
// follows the status (invalid_request_error, authentication_error, not_found_error,
// rate_limit_error, server_error); `param` and `code` may be empty (null).
std::string error_body(ErrorShape shape, const Failure& failure, std::string_view param = {},
                       std::string_view code = {});
// Sends error_body as the whole answer; a 429 has Retry-After.
void send_error(HttpReply& reply, ErrorShape shape, const Failure& failure,
                std::string_view param = {}, std::string_view code = {});

struct RouterOptions {
  std::vector<std::string> api_keys;         // empty: none needed
  std::vector<std::string> allowed_origins;  // for browsers of other origins; "*": any
  // Serve only requests whose Host is a name of this machine. A server without keys needs this:
  // otherwise a web page elsewhere could reach it through a host name that resolves to 127.0.0.1.
  bool local_hosts_only = false;
  std::shared_ptr<ServerLog> log;  // none: nothing is logged
  bool log_prompts = false;        // request bodies too
};

class Router {
 public:
  // `metrics` must outlive the router.
  Router(RouterOptions options, Metrics& metrics);

  struct Route {
    ErrorShape shape = ErrorShape::openai;
    bool needs_key = true;  // false: the page, /health
  };
  // Adds a route. A path that ends in "/*" matches every path with some text in place of the star.
  // An exact match is preferred, then the longest pattern. The handler of GET also answers HEAD.
  void add(const std::string& method, const std::string& path, HttpHandler handler, Route route);
  void add(const std::string& method, const std::string& path, HttpHandler handler) {
    add(method, path, std::move(handler), Route{});
  }

  // Adds an endpoint of a protocol that this server does not have: requests to `path` and below it
  // get a 404 with `why` in its message.
  void add_absent(const std::string& path, const std::string& why);

  // Handles a request. If its handler throws, the answer is 500 and the message goes only to the
  // log. Every answer has x-request-id, that of the client if it has sent a valid one.
  void handle(const std::shared_ptr<const HttpRequest>& request,
              std::shared_ptr<HttpReply> reply) const;

  bool needs_keys() const { return !options_.api_keys.empty(); }

 private:
  struct Entry {
    HttpHandler handler;
    Route route;
  };
  using Methods = std::map<std::string, Entry>;
  class Observed;  // the HttpReply that handlers get
  // The routes of a path, and the path as it was added; nullptr if there are none.
  const Methods* find(const std::string& path, std::string* pattern) const;
  std::string why_absent(const std::string& path) const;
  ErrorShape shape_of(const std::string& path, const Methods* methods) const;
  // Returns why the request must not reach its handler, if so: wrong host, foreign origin, no key.
  std::optional<Failure> refusal(const HttpRequest& request, const Route& route) const;
  HttpHeaders cors_headers(const HttpRequest& request) const;
  void answer_options(const HttpRequest& request, const Methods& methods, HttpReply& reply) const;
  void run(const Entry& entry, const std::shared_ptr<const HttpRequest>& request,
           const std::shared_ptr<HttpReply>& reply) const;

  RouterOptions options_;
  Metrics& metrics_;
  std::map<std::string, Methods> routes_;  // by path, then method
  std::map<std::string, std::string> absent_;
};

}  // namespace fathom::server
