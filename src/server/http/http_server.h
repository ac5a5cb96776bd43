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
  int port = 8000;  // 0: any free one
  int threads = 1;
  int max_connections = 16384;           // more are accepted and closed with 503
  size_t max_header_bytes = 16 << 10;    // 431 beyond
  size_t max_body_bytes = 32 << 20;      // 413 beyond
  size_t max_pending_bytes = 512 << 20;  // of bodies arriving or in line, together: 503 beyond
  size_t large_body_bytes = 64 << 10;    // a body beyond it is handled by one of
  int large_body_threads = 2;            // these, and in line until one is free
  double header_seconds = 20;  // for a request's head, and for each MiB of its body: 408 beyond
  double idle_seconds = 75;    // between requests of one connection
  double quiet_seconds = 8;    // until a silent stream says that it lives
  double write_seconds = 30;   // a client that takes nothing for so long is given up
  size_t max_unsent_bytes = 4 << 20;  // and one that lags further behind a stream than this
  // Told of what is wrong with no single request (no more file descriptors), from any thread.
  std::function<void(const std::string&)> on_problem;
};

class HttpServer {
 public:
  // Binds: throws Error when it cannot. Connections are refused until start(). `handler` is called
  // for every request.
  HttpServer(const HttpServerOptions& options, HttpHandler handler);
  ~HttpServer();

  int port() const;
  // Serves on threads of its own from here on. Throws Error when it cannot.
  void start();

  // No new connections or requests; replies under way may finish for `grace_seconds`. Those that
  // have not are told to (HttpReply::on_stopping), and abandoned when they do not end within two
  // seconds. Returns when all is over. May be called again meanwhile with less grace.
  void stop(double grace_seconds);

  int connections() const;  // open ones

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::server
