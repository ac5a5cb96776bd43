// Finds the handler of a request. Checks keys and CORS first and answers what is wrong with it, and
// writes a log line and counts a metric for every request.
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
  // A path that ends in "/*" matches every path with something in place of the star. An exact match
  // wins, then the longest pattern. GET's handler also answers HEAD.
  void add(const std::string& method, const std::string& path, HttpHandler handler, Route route);
  void add(const std::string& method, const std::string& path, HttpHandler handler) {
    add(method, path, std::move(handler), Route{});
  }

  // Registers an endpoint that the protocols have and this server does not: requests to `path` and
  // to what is below it get a 404 with `why` in its message.
  void add_absent(const std::string& path, const std::string& why);

  // A handler that throws gets its request answered with 500; the message goes to the log alone.
  // Every answer carries x-request-id: the client's own if it sent a sane one.
  void handle(std::shared_ptr<const HttpRequest> request, std::shared_ptr<HttpReply> reply) const;

  bool needs_keys() const { return !options_.api_keys.empty(); }

 private:
  struct Entry {
    HttpHandler handler;
    Route route;
  };
  using Methods = std::map<std::string, Entry>;
  class Observed;  // the reply as handlers get it
  // The routes of a path, and the path as it was added; nullptr if there are none.
  const Methods* find(const std::string& path, std::string* pattern) const;
  std::string why_absent(const std::string& path) const;
  ErrorShape shape_of(const std::string& path, const Methods* methods) const;
  // Why the request must not reach its handler, if anything: wrong host, foreign origin, no key.
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
