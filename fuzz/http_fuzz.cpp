// Any bytes are read as requests, however they are cut, within limits; each one gets an answer
// whose head is one head.
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "server/http/http_answer.h"
#include "server/http/http_reader.h"
#include "server/router.h"

namespace {

using namespace fathom;
using namespace fathom::server;

constexpr ReaderLimits kLimits{600, 400};

// Takes the answer and nothing else.
class Taken final : public HttpReply {
 public:
  void send(int status, std::string_view type, std::string body, HttpHeaders headers) override {
    FATHOM_CHECK(status_ == 0, "answered {} after {}", status, status_);
    FATHOM_CHECK(status >= 200 && status < 600, "status {}", status);
    status_ = status;
    AnswerHead head;
    head.status = status;
    head.content_type = type;
    head.headers = &headers;
    head.length = body.size();
    std::string bytes;
    head.append_to(bytes);
    FATHOM_CHECK(bytes.find("\r\n\r\n") == bytes.size() - 4, "a head that ends twice: {}", bytes);
    for (size_t i = 0; i < bytes.size(); ++i) {
      FATHOM_CHECK(bytes[i] != '\r' || bytes[i + 1] == '\n', "a bare CR in {}", bytes);
      FATHOM_CHECK(bytes[i] != '\n' || bytes[i - 1] == '\r', "a bare LF in {}", bytes);
    }
  }
  void begin(int, std::string_view, HttpHeaders) override {}
  void write(std::string) override {}
  void end() override {}
  void post(std::function<void()> task) override { task(); }
  void on_abandoned(std::function<void()>) override {}
  int status() const override { return status_; }

 private:
  int status_ = 0;
};

struct Read {
  bool done = false;
  size_t used = 0;
  HttpRequest request;
  bool keep_alive = false;
};

Read read_one(std::string_view bytes, size_t step) {
  HttpRequestReader reader(kLimits);
  Read r;
  for (size_t end = 0; !reader.done() && end < bytes.size();) {
    end = std::min(bytes.size(), end + step);
    for (size_t used = 1; used > 0 && !reader.done() && r.used < end;) {
      used = reader.feed(bytes.substr(r.used, end - r.used));
      FATHOM_CHECK(used <= end - r.used, "{} of {} bytes", used, end - r.used);
      r.used += used;
    }
  }
  r.done = reader.done();
  r.keep_alive = reader.keep_alive();
  r.request = std::move(reader.request());
  return r;
}

void check_request(const HttpRequest& q) {
  if (q.failure) return;
  FATHOM_CHECK(q.body.size() <= kLimits.max_body_bytes, "{} bytes of body", q.body.size());
  size_t head = 0;
  for (const auto& [name, value] : q.headers) head += name.size() + value.size();
  FATHOM_CHECK(head <= kLimits.max_header_bytes, "{} bytes of head", head);
  FATHOM_CHECK(!q.path.empty() && (q.path[0] == '/' || q.path == "*"), "path {}", q.path);
  for (char c : q.path) FATHOM_CHECK(static_cast<unsigned char>(c) >= 0x20, "in path {}", q.path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  Metrics metrics("fuzz");
  RouterOptions options;
  options.allowed_origins = {"https://a.example"};
  options.local_hosts_only = (data[0] & 1) != 0;
  if ((data[0] & 2) != 0) options.api_keys = {"key"};
  Router router(options, metrics);
  const HttpHandler echo = [](const auto& request, const auto& reply) {
    reply->send(200, request->header("content-type"), request->body, {{"x-echo", request->path}});
  };
  router.add("GET", "/a", echo);
  router.add("POST", "/a", echo);
  router.add("POST", "/v1/messages", echo, {.shape = ErrorShape::anthropic});
  router.add("GET", "/b/*", echo);

  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t step = 1 + data[0] / 4;
  for (;;) {
    Read whole = read_one(bytes, bytes.size() + 1);
    const Read pieces = read_one(bytes, step);
    if (!whole.done) break;
    check_request(whole.request);
    // Where the bytes are cut changes nothing about a request that is accepted. What is refused may
    // be refused later when it comes in pieces, once there is more of it.
    if (!whole.request.failure || (pieces.done && !pieces.request.failure)) {
      FATHOM_CHECK(pieces.done && whole.used == pieces.used, "{} and {} bytes", whole.used,
                   pieces.used);
      FATHOM_CHECK(whole.request.failure.has_value() == pieces.request.failure.has_value(),
                   "accepted one way and refused the other");
      FATHOM_CHECK(whole.request.body == pieces.request.body &&
                       whole.request.headers == pieces.request.headers &&
                       whole.request.path == pieces.request.path,
                   "read differently");
    }
    const bool go_on = whole.keep_alive;
    const size_t used = whole.used;
    auto reply = std::make_shared<Taken>();
    router.handle(std::make_shared<HttpRequest>(std::move(whole.request)), reply);
    FATHOM_CHECK(reply->status() != 0, "no answer");
    if (!go_on || used == 0) break;
    bytes.remove_prefix(used);
  }
  return 0;
}
