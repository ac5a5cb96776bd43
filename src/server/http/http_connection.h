// A connection of the HTTP server, and the state that all connections share. Only http_*.cpp
// includes this header, because Asio's headers compile slowly.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/http/http_exchange.h"
#include "server/http/http_reader.h"
#include "server/http/http_server.h"

namespace fathom::server {

class HttpConnection;

// State of the server that its connections share. It outlives the server itself: an engine may hold
// a reply, and with it this object, long after the server has ended.
struct HttpCore {
  HttpCore(HttpServerOptions o, HttpHandler h)
      : options(std::move(o)), handler(std::move(h)), context(options.threads) {}

  using Strand = boost::asio::strand<boost::asio::io_context::executor_type>;
  using Clock = std::chrono::steady_clock;

  // Queues `task`, unless the server has ended: nobody would run it then, and what it owns would
  // keep this object, which owns the queue, alive forever.
  template <class Task>
  void post(const Strand& strand, Task task) {
    std::shared_lock lock(closed_mutex);
    if (!closed) boost::asio::post(strand, std::move(task));
  }
  void close() {
    std::unique_lock lock(closed_mutex);
    closed = true;
  }

  void problem(const std::string& what) const {
    if (options.on_problem) options.on_problem(what);
  }

  const HttpServerOptions options;
  const HttpHandler handler;
  boost::asio::io_context context;
  std::atomic<bool> stopping{false};
  std::atomic<bool> cutting{false};      // answers in flight have had their time to finish
  std::atomic<size_t> pending_bytes{0};  // of bodies that arrive or wait for a thread
  // Exists from start() until the I/O threads have ended; only these use it.
  std::optional<boost::asio::thread_pool> large_bodies;

  std::mutex mutex;  // guards `open`
  std::condition_variable changed;
  std::unordered_map<HttpConnection*, std::weak_ptr<HttpConnection>> open;

 private:
  std::shared_mutex closed_mutex;  // guards `closed`
  bool closed = false;
};

// Reads requests and writes their answers, one after the other. Everything runs on the connection's
// strand, except the reply_* methods, which any thread may call.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Strand = HttpCore::Strand;
  using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, Strand>;

  HttpConnection(std::shared_ptr<HttpCore> core, Socket socket);

  // On the strand:
  void start();
  // Called when the server stops: closes at once, or after the answer in flight. A request that is
  // still arriving is answered with an error.
  void leave_when_idle();
  void announce_stop();  // runs what HttpReply::on_stopping was given
  void abandon();        // the client has gone, or is too slow

  Strand strand() { return socket_.get_executor(); }

  // The methods of HttpReply, with the number of their exchange (a request and its answer). Calls
  // for an exchange that is over do nothing.
  using Task = Exchange::Task;
  void reply_send(uint64_t exchange, int status, std::string_view content_type,
                  const std::string& body, const HttpHeaders& headers);
  void reply_begin(uint64_t exchange, int status, std::string_view content_type,
                   const HttpHeaders& headers);
  void reply_write(uint64_t exchange, std::string_view bytes);
  void reply_end(uint64_t exchange);
  void reply_keep_alive(uint64_t exchange, std::string bytes);
  void reply_dropped(uint64_t exchange);
  void reply_post(uint64_t exchange, Task task);
  void reply_post_after(uint64_t exchange, double seconds, Task task);
  void reply_on_abandoned(uint64_t exchange, Task task);
  void reply_on_stopping(uint64_t exchange, Task task);

 private:
  using Clock = HttpCore::Clock;
  using Timer = boost::asio::basic_waitable_timer<Clock, boost::asio::wait_traits<Clock>, Strand>;
  enum class Phase {
    reading,    // a request, or nothing yet
    answering,  // its answer is being made or written
    draining,   // the answer is the last one; what the client still sends is thrown away
    closed,
  };
  enum class Input {
    idle,     // is not waited for
    awaited,  // tells when there is some
    ended,    // the client has closed its side
  };
  // What a look at the socket is for, while it is not read from and an answer is under way.
  enum class Look {
    none,
    for_end,    // whether the client has closed its side
    for_reset,  // it has; whether it has left altogether
  };

  // Reading
  void wait_readable();
  void on_readable();
  void on_end_of_input(bool clean);
  void process_input();
  void count_pending(size_t body_bytes);
  void dispatch();
  void handle_elsewhere(std::shared_ptr<HttpRequest> request, std::shared_ptr<HttpReply> reply,
                        size_t body_bytes);
  void on_handled();
  // Finds out whether a client that has closed its side still reads.
  void probe_peer();
  bool in_the_making();  // true while the handler, or an owner of the reply, may still write

  // Writing
  void schedule_flush(std::unique_lock<std::mutex>& lock);
  void flush();
  void write_more();
  void write_when_possible();
  void finish_exchange();
  void drain();
  void close();

  // Time limits
  static Clock::time_point from_now(double seconds);
  void expect_reading_by(Clock::time_point when);
  void expect_writing_by(Clock::time_point when);
  void look_for_peer(Look what, Clock::duration in);
  void look_at_peer();
  void speak_if_quiet();
  void arm_timer();
  void on_timer();

  bool live(uint64_t number) const;  // with mutex_ held
  // With mutex_ held: ends the exchange, and returns the tasks that waited for another end.
  std::vector<Task> end_exchange(Exchange::State how);
  void append_stream(std::string_view bytes);  // with mutex_ held
  void run(uint64_t number, const Task& task);
  void forget_delay();
  void append_head(int status, std::string_view content_type, const HttpHeaders& headers,
                   const std::string* body);
  void run_later(std::vector<Task> tasks);

  const std::shared_ptr<HttpCore> core_;
  // On the strand alone:
  Socket socket_;
  Timer timer_;
  std::string peer_;
  Phase phase_ = Phase::reading;
  std::unique_ptr<HttpRequestReader> reader_;  // while a request arrives
  std::string input_;                          // received, not taken by a reader yet
  size_t counted_pending_ = 0;                 // our part of HttpCore::pending_bytes
  Input input_state_ = Input::idle;
  bool continued_ = false;  // "100 Continue" was sent
  std::string sending_;     // being written, from sent_ on
  size_t sent_ = 0;
  bool writing_ = false;
  Look look_ = Look::none;
  Clock::time_point read_by_ = Clock::time_point::max(), write_by_ = read_by_, look_at_ = read_by_,
                    speak_at_ = read_by_;
  Clock::time_point timer_at_ = read_by_;
  uint64_t timer_number_ = 0;
  std::unique_ptr<Timer> delay_;  // of reply_post_after, from its first use on
  uint64_t delay_number_ = 0;

  std::mutex mutex_;  // guards what follows
  Exchange exchange_;
  std::string outbox_;  // to be written next
  size_t unsent_ = 0;   // bytes of outbox_ and of sending_
  bool flush_scheduled_ = false;
};

}  // namespace fathom::server
