// HTTP as the API handlers see it: a request that is there as a whole, and a reply that may be
// given at once or as a stream. Sockets, timers and limits are http_server.h's.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom::server {

struct HttpRequest {
  std::string method;                          // "POST"
  std::string path;                            // decoded, without the query
  std::map<std::string, std::string> query;    // decoded
  std::map<std::string, std::string> headers;  // names in lower case; repeated ones joined by ", "
  std::string body;
  std::string peer;  // address of the client

  std::string_view header(std::string_view lower_case_name) const;  // empty when absent
  std::string_view query_value(std::string_view name) const;        // empty when absent
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// The answer to one request. All methods may be called from any thread, also after the client has
// gone (they then do nothing); none blocks. Shared: whoever still writes keeps it alive.
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  // The whole answer. Once, and not after begin().
  virtual void send(int status, std::string_view content_type, std::string body,
                    HttpHeaders headers = {}) = 0;

  // A stream: begin, then any number of writes, then end. Each write goes out at once.
  virtual void begin(int status, std::string_view content_type, HttpHeaders headers = {}) = 0;
  virtual void write(std::string bytes) = 0;
  virtual void end() = 0;

  // Runs `task` on this connection's own sequence of tasks, on a server thread: tasks of one reply
  // never run at the same time, and in the order they were posted. Handlers run there too.
  virtual void post(std::function<void()> task) = 0;

  // `task` is run once (as by post) when the client goes away, or reads so slowly that the server
  // gives it up, before the answer was complete.
  virtual void on_abandoned(std::function<void()> task) = 0;

  // What was given for the log and metrics; 0 before an answer begins.
  virtual int status() const = 0;
};

// Called on the connection's sequence of tasks. May return before the answer is given.
using HttpHandler =
    std::function<void(std::shared_ptr<const HttpRequest>, std::shared_ptr<HttpReply>)>;

}  // namespace fathom::server
