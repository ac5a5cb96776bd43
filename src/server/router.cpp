#include "server/router.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>

#include "server/http/http_body.h"

namespace fathom::server {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int kClientGone = 499;         // in log and metrics, as other servers have it
constexpr const char* kOther = "other";  // label of unknown paths in the metrics

std::string_view openai_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

std::string_view anthropic_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
    case 529:
      return "overloaded_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

// Compares in a time that depends only on the length of `given`, which the client knows: it tells
// nothing about the key or about where the two differ.
bool same_key(std::string_view given, std::string_view key) {
  unsigned differ = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i)
    differ |= static_cast<unsigned>(static_cast<unsigned char>(given[i]) ^
                                    static_cast<unsigned char>(key[i % key.size()]));
  return differ == 0;
}

bool equal_but_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](char x, char y) { return lower(x) == lower(y); });
}

// The keys that a request carries, in OpenAI's header and in Anthropic's. Some clients put the
// user's key in one and a value of their own in the other.
std::vector<std::string_view> keys_of(const HttpRequest& request) {
  constexpr std::string_view kBearer = "bearer ";
  std::vector<std::string_view> keys;
  std::string_view value = request.header("authorization");
  if (value.size() > kBearer.size() && equal_but_case(value.substr(0, kBearer.size()), kBearer)) {
    value.remove_prefix(kBearer.size());
    keys.push_back(value.substr(std::min(value.find_first_not_of(' '), value.size())));
  }
  keys.push_back(request.header("x-api-key"));
  std::erase(keys, std::string_view());
  return keys;
}

// "localhost:8000", "127.0.0.1", "[::1]:80": names and addresses that no site elsewhere can have.
bool is_local_host(std::string_view host) {
  if (host.starts_with('['))
    host = host.substr(0, std::min(host.find(']'), host.size() - 1) + 1);
  else
    host = host.substr(0, host.find(':'));
  if (equal_but_case(host, "localhost") || host == "[::1]") return true;
  constexpr std::string_view kSuffix = ".localhost";
  if (host.size() > kSuffix.size() &&
      equal_but_case(host.substr(host.size() - kSuffix.size()), kSuffix))
    return true;
  return host.starts_with("127.") &&
         host.find_first_not_of("0123456789.") == std::string_view::npos;
}

// Whether a page of this server asks: the browser sends the page's origin.
bool same_origin(std::string_view origin, std::string_view host) {
  const size_t scheme = origin.find("://");
  return scheme != std::string_view::npos && equal_but_case(origin.substr(scheme + 3), host);
}

bool sane_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 &&
         id.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:") ==
             std::string_view::npos;
}

std::string request_id(const HttpRequest& request) {
  if (const std::string_view id = request.header("x-request-id"); sane_id(id))
    return std::string(id);
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("req_{:016x}", random());
}

}  // namespace

std::string error_body(ErrorShape shape, const Failure& failure, std::string_view param,
                       std::string_view code) {
  const auto or_null = [](std::string_view text) { return text.empty() ? Json() : Json(text); };
  Json body;
  if (shape == ErrorShape::anthropic) {
    body = {{"type", "error"},
            {"error", {{"type", anthropic_type(failure.status)}, {"message", failure.message}}}};
  } else {
    if (code.empty() && failure.status == 401) code = "invalid_api_key";
    body["error"] = {{"message", failure.message},
                     {"type", openai_type(failure.status)},
                     {"param", or_null(param)},
                     {"code", or_null(code)}};
  }
  // A message may quote what the client sent, which need not be UTF-8.
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void send_error(HttpReply& reply, ErrorShape shape, const Failure& failure, std::string_view param,
                std::string_view code) {
  HttpHeaders headers;
  if (failure.status == 429 || failure.status == 503) headers.emplace_back("Retry-After", "1");
  if (failure.status == 401) headers.emplace_back("WWW-Authenticate", "Bearer");
  if (failure.status == 415) headers.emplace_back("Accept-Encoding", kBodyCodings);
  reply.send(failure.status, "application/json", error_body(shape, failure, param, code),
             std::move(headers));
}

// Passes everything on; adds the headers that every answer has, and counts and logs the request
// once, when it is over.
class Router::Observed final : public HttpReply {
 public:
  // The record of the request, closed once: by end(), or when the client has left.
  struct Ledger {
    Ledger(Metrics& m, std::shared_ptr<ServerLog> l) : metrics(m), log(std::move(l)) {}

    void close(int status, std::string_view how) {
      RequestRecord done;
      {
        std::lock_guard lock(mutex);
        if (closed) return;
        closed = true;
        if (gone) status = kClientGone, how = "client gone";
        record.status = status;
        record.end = how;
        record.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        done = std::move(record);
      }
      metrics.count_http(pattern, status);
      if (log) log->request(done);
    }

    Metrics& metrics;
    const std::shared_ptr<ServerLog> log;
    std::string pattern = kOther;
    const Clock::time_point begin = Clock::now();
    std::mutex mutex;  // guards what follows
    RequestRecord record;
    bool closed = false;
    bool gone = false;  // the client has left
  };

  Observed(std::shared_ptr<HttpReply> inner, std::shared_ptr<Ledger> ledger, HttpHeaders always,
           ErrorShape shape)
      : inner_(std::move(inner)),
        ledger_(std::move(ledger)),
        always_(std::move(always)),
        shape_(shape) {
    // After the client has left, the log line is written when the last owner releases the reply:
    // listeners called after this one may still add figures to it.
    inner_->on_abandoned([l = ledger_] {
      std::lock_guard lock(l->mutex);
      l->gone = true;
    });
  }

  ~Observed() override {
    if (status_ == 0) send_error(*this, shape_, {500, "the server did not answer this request"});
    ledger_->close(status_, "broken off");
  }

  void send(int status, std::string_view content_type, std::string body,
            HttpHeaders headers) override {
    if (!claim(status)) return;
    count(body.size());
    // Counted and logged first: a client that has its answer finds it in the metrics.
    ledger_->close(status, "complete");
    inner_->send(status, content_type, std::move(body), with_always(std::move(headers)));
  }
  void begin(int status, std::string_view content_type, HttpHeaders headers) override {
    if (claim(status)) inner_->begin(status, content_type, with_always(std::move(headers)));
  }
  void write(std::string bytes) override {
    count(bytes.size());
    inner_->write(std::move(bytes));
  }
  void end() override {
    ledger_->close(status_, "complete");
    inner_->end();
  }
  void keep_alive(std::string bytes) override { inner_->keep_alive(std::move(bytes)); }
  void post(std::function<void()> task) override { inner_->post(std::move(task)); }
  void post_after(double seconds, std::function<void()> task) override {
    inner_->post_after(seconds, std::move(task));
  }
  void on_abandoned(std::function<void()> task) override { inner_->on_abandoned(std::move(task)); }
  void on_stopping(std::function<void()> task) override { inner_->on_stopping(std::move(task)); }
  void note(std::string_view name, int64_t value) override {
    std::lock_guard lock(ledger_->mutex);
    ledger_->record.notes.emplace_back(name, value);
  }
  void note(std::string_view name, std::string_view text) override {
    std::lock_guard lock(ledger_->mutex);
    ledger_->record.notes.emplace_back(name, std::string(text));
  }
  int status() const override { return status_; }

 private:
  bool claim(int status) {
    int none = 0;
    return status_.compare_exchange_strong(none, status);
  }
  void count(size_t bytes) {
    std::lock_guard lock(ledger_->mutex);
    ledger_->record.bytes += bytes;
  }
  HttpHeaders with_always(HttpHeaders headers) const {
    headers.insert(headers.end(), always_.begin(), always_.end());
    return headers;
  }

  const std::shared_ptr<HttpReply> inner_;
  const std::shared_ptr<Ledger> ledger_;
  const HttpHeaders always_;
  const ErrorShape shape_;
  std::atomic<int> status_{0};
};

Router::Router(RouterOptions options, Metrics& metrics)
    : options_(std::move(options)), metrics_(metrics) {
  for (const std::string& key : options_.api_keys)
    FATHOM_CHECK(!key.empty(), "an API key of no characters");
}

void Router::add(const std::string& method, const std::string& path, HttpHandler handler,
                 Route route) {
  const bool fresh = routes_[path].emplace(method, Entry{std::move(handler), route}).second;
  FATHOM_CHECK(fresh, "{} {} is added twice", method, path);
}

const Router::Methods* Router::find(const std::string& path, std::string* pattern) const {
  auto it = routes_.find(path);
  if (it != routes_.end() && !path.ends_with("/*")) {
    *pattern = path;
    return &it->second;
  }
  for (size_t slash = path.rfind('/'); slash != std::string::npos && slash > 0;
       slash = path.rfind('/', slash - 1)) {
    if (slash + 1 == path.size()) continue;
    it = routes_.find(path.substr(0, slash + 1) + "*");
    if (it == routes_.end()) continue;
    *pattern = it->first;
    return &it->second;
  }
  return nullptr;
}

void Router::add_absent(const std::string& path, const std::string& why) { absent_[path] = why; }

std::string Router::why_absent(const std::string& path) const {
  const auto under = [&](const auto& entry) {
    const std::string& known = entry.first;
    return path == known || path.starts_with(known + "/");
  };
  const auto found = std::find_if(absent_.begin(), absent_.end(), under);
  if (found == absent_.end()) return fmt::format("there is no {}", path);
  return fmt::format("there is no {}: {}", path, found->second);
}

ErrorShape Router::shape_of(const std::string& path, const Methods* methods) const {
  if (methods != nullptr) return methods->begin()->second.route.shape;
  return path.starts_with("/v1/messages") ? ErrorShape::anthropic : ErrorShape::openai;
}

std::optional<Failure> Router::refusal(const HttpRequest& request, const Route& route) const {
  const std::string_view host = request.header("host");
  if (options_.local_hosts_only && !host.empty() && !is_local_host(host))
    return Failure{403, fmt::format("host {}: without an API key this server answers to localhost "
                                    "alone (--api-key)",
                                    host)};
  // A page of another site can make a browser send a request, if not read the answer.
  const std::string_view origin = request.header("origin");
  const bool changes = request.method != "GET" && request.method != "HEAD";
  if (changes && !origin.empty() && !same_origin(origin, host) && cors_headers(request).empty())
    return Failure{403, fmt::format("pages of {} may not use this server (--cors-origin)", origin)};
  if (!route.needs_key || options_.api_keys.empty()) return std::nullopt;
  const std::vector<std::string_view> given = keys_of(request);
  if (given.empty())
    return Failure{401, "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY"};
  bool known = false;
  for (const std::string& key : options_.api_keys)
    for (const std::string_view one : given) known |= same_key(one, key);
  if (!known) return Failure{401, "this API key is not known"};
  return std::nullopt;
}

// Empty: the origin may not read answers, or there is none.
HttpHeaders Router::cors_headers(const HttpRequest& request) const {
  const std::string_view origin = request.header("origin");
  if (origin.empty()) return {};
  bool any = false, known = false;
  for (const std::string& allowed : options_.allowed_origins) {
    any |= allowed == "*";
    known |= allowed == origin;
  }
  if (!any && !known) return {};
  return {{"Access-Control-Allow-Origin", any ? "*" : std::string(origin)},
          {"Access-Control-Expose-Headers", "x-request-id, request-id, retry-after"}};
}

void Router::answer_options(const HttpRequest& request, const Methods& methods,
                            HttpReply& reply) const {
  std::string allow;
  for (const auto& [method, entry] : methods) {
    allow += method + ", ";
    if (method == "GET") allow += "HEAD, ";
  }
  allow += "OPTIONS";
  HttpHeaders headers = {{"Allow", allow}};
  if (!request.header("access-control-request-method").empty() && !cors_headers(request).empty()) {
    headers.emplace_back("Access-Control-Allow-Methods", allow);
    // SDKs send headers with names of their own, so the requested headers are the allowed ones.
    if (const std::string_view asked = request.header("access-control-request-headers");
        !asked.empty())
      headers.emplace_back("Access-Control-Allow-Headers", asked);
    headers.emplace_back("Access-Control-Max-Age", "600");
  }
  reply.send(204, "", "", std::move(headers));
}

void Router::run(const Entry& entry, const std::shared_ptr<const HttpRequest>& request,
                 const std::shared_ptr<HttpReply>& reply) const {
  try {
    entry.handler(request, reply);
  } catch (const std::exception& e) {
    if (options_.log)
      options_.log->write(LogLevel::error,
                          fmt::format("{} {}: {}", request->method, request->path, e.what()));
    // Does nothing if the handler had begun to answer; the stream then ends with its owner.
    send_error(*reply, entry.route.shape, {500, "the server failed to answer this request"});
  }
}

void Router::handle(const std::shared_ptr<const HttpRequest>& request,
                    std::shared_ptr<HttpReply> reply) const {
  auto ledger = std::make_shared<Observed::Ledger>(metrics_, options_.log);
  const Methods* methods = find(request->path, &ledger->pattern);
  const std::string id = request_id(*request);
  ledger->record.id = id;
  ledger->record.method = request->method;
  ledger->record.path = request->path;
  ledger->record.peer = request->peer;
  if (options_.log_prompts) ledger->record.body = request->body;

  HttpHeaders always = cors_headers(*request);
  if (!options_.allowed_origins.empty()) always.emplace_back("Vary", "Origin");
  always.emplace_back("x-request-id", id);
  const ErrorShape shape = shape_of(request->path, methods);
  if (shape == ErrorShape::anthropic) always.emplace_back("request-id", id);  // its SDKs' name
  auto observed = std::make_shared<Observed>(std::move(reply), ledger, std::move(always), shape);

  if (request->failure) return send_error(*observed, shape, *request->failure);
  const std::string& method = request->method;
  if (method == "OPTIONS" && (methods != nullptr || request->path == "*"))
    return answer_options(*request, methods != nullptr ? *methods : Methods{}, *observed);
  if (methods == nullptr) return send_error(*observed, shape, {404, why_absent(request->path)});
  auto entry = methods->find(method);
  if (entry == methods->end() && method == "HEAD") entry = methods->find("GET");
  if (entry == methods->end()) {
    std::string allow;
    for (const auto& [name, unused] : *methods) allow += (allow.empty() ? "" : ", ") + name;
    return observed->send(405, "application/json",
                          error_body(shape, {405, fmt::format("{} does not take {}: it takes {}",
                                                              request->path, method, allow)}),
                          {{"Allow", allow}});
  }
  if (const auto refused = refusal(*request, entry->second.route))
    return send_error(*observed, shape, *refused);
  run(entry->second, request, observed);
}

}  // namespace fathom::server
