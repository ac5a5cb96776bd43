// The HTTP/1.1 server: sockets, limits and time limits. Connections are served by
// HttpServerOptions::threads I/O threads; the tasks of one connection run one after another.
// Handlers of large bodies run on threads of their own, because an I/O thread that parses megabytes
// of JSON would keep all of its connections waiting.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "server/http/http.h"

namespace fathom::server {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: any free port
  int threads = 1;
  int max_connections = 16384;           // more are accepted and closed with 503
  size_t max_header_bytes = 16 << 10;    // 431 beyond
  size_t max_body_bytes = 32 << 20;      // 413 beyond
  size_t max_pending_bytes = 512 << 20;  // of all bodies that arrive or wait: 503 beyond
  size_t large_body_bytes = 64 << 10;    // a larger body is handled by one of
  int large_body_threads = 2;            // these threads, and waits until one is free
  double header_seconds = 20;  // for a request's head, and for each MiB of its body: 408 beyond
  double idle_seconds = 75;    // between requests of one connection
  double quiet_seconds = 8;    // until a silent stream sends HttpReply::keep_alive's bytes
  double write_seconds = 30;   // a client that accepts nothing for this long is disconnected,
  size_t max_unsent_bytes = 4 << 20;  // and one that lags behind a stream by more than this
  // Called, on any thread, with problems that concern no single request (no more file descriptors).
  std::function<void(const std::string&)> on_problem;
};

class HttpServer {
 public:
  // Binds the address; throws Error when it cannot. Connections are refused until start().
  // `handler` is called for every request.
  HttpServer(const HttpServerOptions& options, HttpHandler handler);
  ~HttpServer();

  int port() const;
  // Starts to serve, on threads of its own. Throws Error when it cannot.
  void start();

  // Stops the server and returns when all connections are closed. No new connections or requests
  // are accepted. Replies in flight have `grace_seconds` to finish. After that
  // HttpReply::on_stopping's tasks are run, and replies that do not end within two seconds are
  // abandoned. May be called again during that time with less grace.
  void stop(double grace_seconds);

  int connections() const;  // open ones

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::server
