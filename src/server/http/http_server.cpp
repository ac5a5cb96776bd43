#include "server/http/http_server.h"

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <optional>
#include <thread>

#include "base/error.h"
#include "server/http/http_answer.h"
#include "server/http/http_connection.h"

namespace fathom::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = HttpCore::Clock;

constexpr std::chrono::milliseconds kAcceptPause{100};
constexpr std::chrono::seconds kCutTime{2};  // for answers to end once they are told to
constexpr int kBacklog = 4096;

Clock::duration seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(std::clamp(s, 0.0, 1e8)));
}

// An address, or a name that resolves to one; "[::1]" as in a URL is taken too.
tcp::endpoint endpoint_of(asio::io_context& context, const HttpServerOptions& o) {
  if (o.port < 0 || o.port > 65535) fail("port {}: 0 to 65535 is accepted", o.port);
  const auto port = static_cast<uint16_t>(o.port);
  std::string host = o.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  error_code ec;
  const asio::ip::address address = asio::ip::make_address(host, ec);
  if (!ec) return {address, port};
  tcp::resolver resolver(context);
  const auto found = resolver.resolve(host, "", tcp::resolver::passive, ec);
  if (ec || found.empty()) fail("cannot listen on {}: {}", o.host, ec.message());
  return {found.begin()->endpoint().address(), port};
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const HttpServerOptions& options, HttpHandler handler)
      : core_(std::make_shared<HttpCore>(options, std::move(handler))),
        strand_(asio::make_strand(core_->context)),
        acceptor_(strand_),
        pause_(strand_),
        work_(core_->context.get_executor()) {
    const tcp::endpoint endpoint = endpoint_of(core_->context, options);
    error_code ec;
    acceptor_.open(endpoint.protocol(), ec);
    if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
    if (!ec) acceptor_.bind(endpoint, ec);
    if (ec) fail("cannot listen on {} port {}: {}", options.host, options.port, ec.message());
    port_ = acceptor_.local_endpoint().port();
  }

  ~Impl() { stop(0); }

  int port() const { return port_; }

  void start() {
    error_code ec;
    acceptor_.listen(kBacklog, ec);
    if (ec) fail("cannot listen on port {}: {}", port_, ec.message());
    core_->large_bodies.emplace(
        static_cast<size_t>(std::max(1, core_->options.large_body_threads)));
    accept();
    for (int i = 0; i < std::max(1, core_->options.threads); ++i)
      threads_.emplace_back([this] { serve(); });
  }

  void stop(double grace) {
    {
      std::unique_lock lock(core_->mutex);
      stop_by_ = std::min(stop_by_, Clock::now() + seconds(grace));
      core_->changed.notify_all();
      if (stopping_) {
        core_->changed.wait(lock, [&] { return stopped_; });
        return;
      }
      stopping_ = true;
    }
    core_->stopping = true;
    core_->post(strand_, [this] {
      error_code ec;
      acceptor_.close(ec);
      pause_.cancel();
    });
    if (!threads_.empty()) {
      tell_all([](HttpConnection& c) { c.leave_when_idle(); });
      wait_until_closed();
      core_->cutting = true;
      tell_all([](HttpConnection& c) { c.announce_stop(); });
      wait_until_closed_for(kCutTime);
      tell_all([](HttpConnection& c) { c.abandon(); });
      wait_until_closed_for(std::chrono::hours(1));
    }
    end_threads();
    std::lock_guard lock(core_->mutex);
    stopped_ = true;
    core_->changed.notify_all();
  }

  int connections() const {
    std::lock_guard lock(core_->mutex);
    return static_cast<int>(core_->open.size());
  }

 private:
  using Timer = asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, HttpCore::Strand>;

  void serve() {
    for (;;) {
      try {
        core_->context.run();
        return;
      } catch (const std::exception& e) {
        // Most likely out of memory, which affects only the connection being served.
        core_->problem(fmt::format("an HTTP thread goes on after: {}", e.what()));
      }
    }
  }

  void accept() {
    acceptor_.async_accept(
        asio::make_strand(core_->context),
        [this](error_code ec, HttpConnection::Socket socket) { on_accept(ec, std::move(socket)); });
  }

  void on_accept(const error_code& ec, HttpConnection::Socket socket) {
    if (core_->stopping || ec == asio::error::operation_aborted) return;
    if (!ec) {
      out_of_sockets_ = false;
      if (connections() >= core_->options.max_connections) {
        turn_away(socket);
      } else {
        auto connection = std::make_shared<HttpConnection>(core_, std::move(socket));
        core_->post(connection->strand(), [connection] { connection->start(); });
      }
      return accept();
    }
    if (ec == asio::error::connection_aborted || ec == asio::error::interrupted) return accept();
    // No file descriptors or no memory: the connection stays in the kernel's queue, and accepting
    // again at once would spin. The problem is reported once until an accept succeeds.
    if (!out_of_sockets_) core_->problem(fmt::format("cannot accept: {}", ec.message()));
    out_of_sockets_ = true;
    pause_.expires_after(kAcceptPause);
    pause_.async_wait([this](error_code cancelled) {
      if (!cancelled && !core_->stopping) accept();
    });
  }

  static void turn_away(HttpConnection::Socket& socket) {
    const std::string body =
        R"({"error":{"message":"too many connections","type":"server_error","param":null,)"
        R"("code":null}})";
    const HttpHeaders headers = {{"Retry-After", "1"}};
    AnswerHead head;
    head.status = 503;
    head.content_type = "application/json";
    head.headers = &headers;
    head.length = body.size();
    head.keep_alive = false;
    std::string answer;
    head.append_to(answer);
    answer += body;
    error_code ec;
    socket.non_blocking(true, ec);
    char unread[4096];
    (void)socket.read_some(asio::buffer(unread), ec);
    (void)socket.write_some(asio::buffer(answer), ec);
    socket.shutdown(HttpConnection::Socket::shutdown_both, ec);
    socket.close(ec);
  }

  template <class What>
  void tell_all(What what) {
    std::vector<std::shared_ptr<HttpConnection>> all;
    {
      std::lock_guard lock(core_->mutex);
      for (const auto& [key, connection] : core_->open)
        if (auto alive = connection.lock()) all.push_back(std::move(alive));
    }
    for (auto& connection : all)
      core_->post(connection->strand(), [connection, what] { what(*connection); });
  }

  void wait_until_closed() {
    std::unique_lock lock(core_->mutex);
    while (!core_->open.empty() && Clock::now() < stop_by_) {
      const Clock::time_point until = stop_by_;  // stop() may be called again with an earlier time
      core_->changed.wait_until(lock, until);
    }
  }

  void wait_until_closed_for(Clock::duration time) {
    std::unique_lock lock(core_->mutex);
    core_->changed.wait_for(lock, time, [&] { return core_->open.empty(); });
  }

  void end_threads() {
    work_.reset();
    core_->context.stop();
    for (std::thread& thread : threads_) thread.join();
    if (core_->large_bodies) {
      core_->large_bodies->stop();
      core_->large_bodies->join();
      core_->large_bodies.reset();  // frees the requests that no thread has taken
    }
    // From here on nothing is queued. Queued tasks own connections, which own the queue, so they
    // are run to break that cycle.
    core_->close();
    core_->context.restart();
    while (core_->context.poll() > 0) {
    }
  }

  const std::shared_ptr<HttpCore> core_;
  HttpCore::Strand strand_;  // of acceptor_ and pause_
  asio::basic_socket_acceptor<tcp, HttpCore::Strand> acceptor_;
  Timer pause_;
  bool out_of_sockets_ = false;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::vector<std::thread> threads_;
  int port_ = 0;

  // Guarded by core_->mutex:
  Clock::time_point stop_by_ = Clock::time_point::max();
  bool stopping_ = false, stopped_ = false;
};

HttpServer::HttpServer(const HttpServerOptions& options, HttpHandler handler)
    : impl_(std::make_unique<Impl>(options, std::move(handler))) {}
HttpServer::~HttpServer() = default;
int HttpServer::port() const { return impl_->port(); }
void HttpServer::start() { impl_->start(); }
void HttpServer::stop(double grace_seconds) { impl_->stop(grace_seconds); }
int HttpServer::connections() const { return impl_->connections(); }

}  // namespace fathom::server
