// The chat page: files that are part of the program, at / and /web/NAME. They contain no secrets,
// so they need no key; the page asks for one when the API requires it.
#include <memory>
#include <string>
#include <string_view>

#include "server/router.h"
#include "server/service.h"
#include "server/web_assets.h"

namespace fathom::server {
namespace {

// What the page may do: talk to this server and nothing else, run no script but its own files. A
// model's text is never markup in it (web/markdown.js), and if it were, no script in it would run.
constexpr std::string_view kPolicy =
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'";

// Whether an If-None-Match header names `etag`. Tags a cache has made weak count as well: the bytes
// are the same.
bool names_etag(std::string_view header, std::string_view etag) {
  while (!header.empty()) {
    const size_t comma = header.find(',');
    std::string_view one = header.substr(0, comma);
    header = comma == std::string_view::npos ? std::string_view{} : header.substr(comma + 1);
    while (one.starts_with(' ') || one.starts_with('\t')) one.remove_prefix(1);
    while (one.ends_with(' ') || one.ends_with('\t')) one.remove_suffix(1);
    if (one.starts_with("W/")) one.remove_prefix(2);
    if (one == "*" || one == etag) return true;
  }
  return false;
}

void send_asset(const WebAsset& asset, const HttpRequest& request, HttpReply& reply) {
  HttpHeaders headers = {
      {"ETag", std::string(asset.etag)},
      // The browser revalidates each time, which costs a 304, so that a new program shows its new
      // page at once.
      {"Cache-Control", "no-cache"},
      {"Content-Security-Policy", std::string(kPolicy)},
      {"X-Content-Type-Options", "nosniff"},
      {"Referrer-Policy", "no-referrer"},
  };
  if (names_etag(request.header("if-none-match"), asset.etag)) {
    reply.send(304, asset.content_type, {}, std::move(headers));
  } else {
    reply.send(200, asset.content_type, std::string(asset.bytes), std::move(headers));
  }
}

}  // namespace

void add_page_routes(Router& router) {
  const Router::Route open{.shape = ErrorShape::openai, .needs_key = false};
  for (const WebAsset& asset : web_assets()) {
    const HttpHandler handler = [&asset](const std::shared_ptr<const HttpRequest>& request,
                                         const std::shared_ptr<HttpReply>& reply) {
      send_asset(asset, *request, *reply);
    };
    router.add("GET", "/web/" + std::string(asset.name), handler, open);
    if (asset.name == "index.html") router.add("GET", "/", handler, open);
  }
}

}  // namespace fathom::server
