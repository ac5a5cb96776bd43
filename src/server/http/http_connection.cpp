// An idle connection holds no buffer: it waits until its socket is readable, then reads.
//
// When a client has closed its sending side, TCP does not say whether it still reads. The
// connection then writes a few bytes that mean nothing to the client (probe_peer): the machine of a
// client that has closed the whole connection replies to them with a reset.
#include "server/http/http_connection.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>

#include "server/http/http_answer.h"
#include "server/http/http_body.h"

namespace fathom::server {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr size_t kReadBlock = 16 << 10;
constexpr int kReadsInARow = 16;            // before other connections have their turn
constexpr size_t kMaxPipelined = 16 << 10;  // bytes read ahead, of requests after the current one
constexpr size_t kBodyPerDeadline = 1 << 20;
constexpr std::chrono::seconds kDrainTime{2};
constexpr std::chrono::seconds kLookTime{1};  // between looks for a peer that is not read from
constexpr std::chrono::milliseconds kResetTime{100};  // for the reply to a probe

// Whether the peer has closed its sending side (POLLRDHUP), even if sent data is still unread. With
// `events` 0: whether the whole connection is closed.
bool peer_shows(int socket, short events) {
  pollfd p{socket, events, 0};
  return ::poll(&p, 1, 0) > 0;
}

void set_option(int socket, int level, int name, int value) {
  // A connection without the option still works: answers are a few milliseconds slower, or a dead
  // client is noticed later.
  (void)::setsockopt(socket, level, name, &value, sizeof(value));
}

void handle(const HttpCore& core, std::shared_ptr<HttpRequest> request,
            std::shared_ptr<HttpReply> reply) {
  try {
    if (!request->failure) {
      request->failure = decode_body(request->header("content-encoding"),
                                     core.options.max_body_bytes, request->body);
    }
    core.handler(std::move(request), std::move(reply));
  } catch (const std::exception& e) {
    // Unwinding destroys the handler's reference to the reply, whose destructor answers 500.
    core.problem(fmt::format("a handler threw: {}", e.what()));
  }
}

// A handler's handle of one exchange.
class Reply final : public HttpReply {
 public:
  Reply(std::shared_ptr<HttpConnection> connection, uint64_t exchange)
      : connection_(std::move(connection)), exchange_(exchange) {}
  ~Reply() override { connection_->reply_dropped(exchange_); }

  void send(int status, std::string_view content_type, std::string body,
            HttpHeaders headers) override {
    note_status(status);
    connection_->reply_send(exchange_, status, content_type, body, headers);
  }
  void begin(int status, std::string_view content_type, HttpHeaders headers) override {
    note_status(status);
    connection_->reply_begin(exchange_, status, content_type, headers);
  }
  void write(std::string bytes) override { connection_->reply_write(exchange_, bytes); }
  void end() override { connection_->reply_end(exchange_); }
  void keep_alive(std::string bytes) override {
    connection_->reply_keep_alive(exchange_, std::move(bytes));
  }
  void post(std::function<void()> task) override {
    connection_->reply_post(exchange_, std::move(task));
  }
  void post_after(double seconds, std::function<void()> task) override {
    connection_->reply_post_after(exchange_, seconds, std::move(task));
  }
  void on_abandoned(std::function<void()> task) override {
    connection_->reply_on_abandoned(exchange_, std::move(task));
  }
  void on_stopping(std::function<void()> task) override {
    connection_->reply_on_stopping(exchange_, std::move(task));
  }
  int status() const override { return status_; }

 private:
  void note_status(int status) {
    int none = 0;
    status_.compare_exchange_strong(none, status);
  }
  const std::shared_ptr<HttpConnection> connection_;
  const uint64_t exchange_;
  std::atomic<int> status_{0};
};

}  // namespace

HttpConnection::HttpConnection(std::shared_ptr<HttpCore> core, Socket socket)
    : core_(std::move(core)), socket_(std::move(socket)), timer_(socket_.get_executor()) {}

void HttpConnection::start() {
  {
    std::lock_guard lock(core_->mutex);
    core_->open.emplace(this, weak_from_this());
  }
  error_code ec;
  const auto peer = socket_.remote_endpoint(ec);
  if (!ec) socket_.non_blocking(true, ec);
  if (ec || core_->stopping) return close();
  peer_ = peer.address().to_string();
  const int fd = socket_.native_handle();
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  // A client whose machine is gone acknowledges nothing, so unacknowledged data has a time limit.
  // TCP_NOTSENT_LOWAT bounds what the kernel buffers for a slow client: otherwise megabytes beyond
  // max_unsent_bytes.
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
             static_cast<int>(std::min(core_->options.write_seconds, 86400.0) * 1000));
  set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 128 << 10);
  expect_reading_by(from_now(core_->options.idle_seconds));
  wait_readable();
}

// ---- Reading

void HttpConnection::wait_readable() {
  if (input_state_ != Input::idle || phase_ == Phase::closed) return;
  if (phase_ == Phase::answering && input_.size() >= kMaxPipelined)
    return look_for_peer(Look::for_end, kLookTime);
  input_state_ = Input::awaited;
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](error_code ec) {
    self->input_state_ = Input::idle;
    if (!ec && self->phase_ != Phase::closed) self->on_readable();
  });
}

void HttpConnection::on_readable() {
  char block[kReadBlock];
  for (int i = 0; i < kReadsInARow; ++i) {
    if (phase_ == Phase::answering && input_.size() >= kMaxPipelined) break;
    error_code ec;
    const size_t n = socket_.read_some(asio::buffer(block), ec);
    if (ec == asio::error::would_block || ec == asio::error::try_again) break;
    if (ec) return on_end_of_input(ec == asio::error::eof);
    if (phase_ == Phase::draining) continue;
    input_.append(block, n);
    if (phase_ == Phase::reading) process_input();
    if (phase_ == Phase::closed) return;
  }
  wait_readable();
}

void HttpConnection::on_end_of_input(bool clean) {
  input_state_ = Input::ended;
  if (phase_ != Phase::answering) return close();
  if (!clean) return abandon();
  probe_peer();
}

void HttpConnection::probe_peer() {
  std::unique_lock lock(mutex_);
  // A handler on another thread may still answer at once.
  if (!exchange_.open() || exchange_.handler == Exchange::Handler::elsewhere) return;
  if (exchange_.state() == Exchange::State::streaming) {
    if (exchange_.quiet.empty()) {  // nothing can be sent that would show it
      lock.unlock();
      return abandon();
    }
    append_stream(exchange_.quiet);
    schedule_flush(lock);
  } else if (exchange_.version >= 11) {
    constexpr std::string_view kInterim = "HTTP/1.1 102 Processing\r\n\r\n";
    outbox_ += kInterim;
    unsent_ += kInterim.size();
    schedule_flush(lock);
  } else {  // HTTP/1.0 has no interim answers
    lock.unlock();
  }
  if (phase_ != Phase::closed) look_for_peer(Look::for_reset, kResetTime);
}

void HttpConnection::process_input() {
  while (phase_ == Phase::reading && !input_.empty()) {
    if (!reader_) {
      // Blank lines in front of a request are leftovers of careless clients (RFC 9112, 2.2).
      const size_t first = input_.find_first_not_of("\r\n");
      input_.erase(0, first);
      if (input_.empty()) break;
      reader_ = std::make_unique<HttpRequestReader>(
          ReaderLimits{core_->options.max_header_bytes, core_->options.max_body_bytes});
      continued_ = false;
      expect_reading_by(from_now(core_->options.header_seconds));
    }
    const size_t used = reader_->feed(input_);
    input_.erase(0, used);
    count_pending(reader_->body_bytes());
    if (reader_->done()) {
      dispatch();
    } else {
      if (!continued_ && reader_->expects_continue() && input_.empty()) {
        continued_ = true;
        std::unique_lock lock(mutex_);
        constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
        outbox_ += kContinue;
        unsent_ += kContinue.size();
        schedule_flush(lock);
      }
      break;
    }
  }
  if (input_.empty() && input_.capacity() > kReadBlock) std::string().swap(input_);
}

// Updates this connection's share of HttpCore::pending_bytes, and extends the deadline of a body
// that goes on arriving.
void HttpConnection::count_pending(size_t body_bytes) {
  if (body_bytes == counted_pending_) return;
  if (body_bytes / kBodyPerDeadline > counted_pending_ / kBodyPerDeadline)
    expect_reading_by(from_now(core_->options.header_seconds));
  const size_t all = core_->pending_bytes += body_bytes - counted_pending_;
  const bool more = body_bytes > counted_pending_;
  counted_pending_ = body_bytes;
  if (more && all > core_->options.max_pending_bytes)
    reader_->refuse(503, "too many large requests are arriving at once: try again later");
}

void HttpConnection::dispatch() {
  phase_ = Phase::answering;
  expect_reading_by(Clock::time_point::max());
  auto request = std::make_shared<HttpRequest>(std::move(reader_->request()));
  request->peer = peer_;
  const bool refused = request->failure.has_value();
  // The size that a compressed body expands to is unknown, so it counts as large.
  const bool large = !refused && (request->body.size() > core_->options.large_body_bytes ||
                                  !request->header("content-encoding").empty());
  uint64_t number = 0;
  {
    std::lock_guard lock(mutex_);
    number = exchange_.number + 1;
    exchange_ = Exchange(number, reader_->version());
    exchange_.keep_alive = reader_->keep_alive();
    exchange_.refused = refused;
    if (request->method == "HEAD") exchange_.body = Exchange::Body::none;
    if (large) exchange_.handler = Exchange::Handler::elsewhere;
  }
  reader_.reset();
  auto reply = std::make_shared<Reply>(shared_from_this(), number);
  if (large)
    return handle_elsewhere(std::move(request), std::move(reply),
                            std::exchange(counted_pending_, 0));
  count_pending(0);
  handle(*core_, std::move(request), std::move(reply));
  if (input_state_ == Input::ended) probe_peer();
}

// The body stays counted in pending_bytes until the handler is done, so that bodies waiting for a
// thread are bounded like those that are arriving.
void HttpConnection::handle_elsewhere(std::shared_ptr<HttpRequest> request,
                                      std::shared_ptr<HttpReply> reply, size_t body_bytes) {
  std::shared_ptr<void> counted(
      nullptr, [core = core_, body_bytes](void*) { core->pending_bytes -= body_bytes; });
  auto work = [self = shared_from_this(), request = std::move(request), reply = std::move(reply),
               counted = std::move(counted)]() mutable {
    std::unique_lock lock(self->mutex_);
    const bool wanted = self->exchange_.state() != Exchange::State::abandoned;
    lock.unlock();
    if (wanted) handle(*self->core_, std::move(request), std::move(reply));
    request.reset();
    reply.reset();
    counted.reset();
    self->core_->post(self->strand(), [self] { self->on_handled(); });
  };
  try {
    asio::post(*core_->large_bodies, std::move(work));
  } catch (const std::exception& e) {
    core_->problem(fmt::format("a request finds no thread: {}", e.what()));
    on_handled();
  }
}

// Called on the strand again.
void HttpConnection::on_handled() {
  std::vector<Task> held;
  uint64_t number = 0;
  {
    std::lock_guard lock(mutex_);
    exchange_.handler = Exchange::Handler::here;
    held.swap(exchange_.held);
    number = exchange_.number;
  }
  for (Task& task : held) run(number, std::exchange(task, nullptr));
  if (input_state_ == Input::ended) probe_peer();
  flush();  // writes an answer whose end waited for the handler
}

bool HttpConnection::in_the_making() {
  std::lock_guard lock(mutex_);
  return exchange_.open();
}

// ---- After an answer

// Called when all bytes of the answer are written: goes on to the next request, or closes.
void HttpConnection::finish_exchange() {
  bool keep = false, broken = false, refused = false;
  {
    std::lock_guard lock(mutex_);
    broken = exchange_.state() == Exchange::State::broken;
    keep = exchange_.keep_alive && !broken && !core_->stopping;
    refused = exchange_.refused;
    if (outbox_.capacity() > 256) std::string().swap(outbox_);
  }
  std::string().swap(sending_);
  look_ = Look::none;
  look_at_ = speak_at_ = Clock::time_point::max();
  forget_delay();
  if (broken || (!keep && !refused && input_.empty())) return close();
  if (!keep) return drain();
  phase_ = Phase::reading;
  expect_reading_by(from_now(core_->options.idle_seconds));
  process_input();
  if (phase_ == Phase::reading && input_state_ == Input::ended) return close();
  wait_readable();
}

// Ends the sending side and reads until the client closes. Closing the socket with unread input
// would make the kernel reset the connection, and the client could lose the answer.
void HttpConnection::drain() {
  phase_ = Phase::draining;
  std::string().swap(input_);
  error_code ec;
  socket_.shutdown(Socket::shutdown_send, ec);
  if (ec || input_state_ == Input::ended) return close();
  expect_reading_by(Clock::now() + kDrainTime);
  wait_readable();
}

void HttpConnection::abandon() {
  std::vector<Task> tasks, forgotten;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(exchange_.on_abandoned);
    forgotten.swap(exchange_.on_stopping);
    if (exchange_.open()) exchange_.to(Exchange::State::abandoned);
  }
  close();
  run_later(std::move(tasks));
}

void HttpConnection::close() {
  if (phase_ == Phase::closed) return;
  phase_ = Phase::closed;
  reader_.reset();
  count_pending(0);
  timer_at_ = Clock::time_point::max();
  ++timer_number_;
  timer_.cancel();
  forget_delay();
  error_code ec;
  socket_.close(ec);
  std::string().swap(input_);
  {
    std::lock_guard lock(mutex_);
    if (exchange_.open()) exchange_.to(Exchange::State::abandoned);
    std::string().swap(outbox_);
  }
  std::lock_guard lock(core_->mutex);
  core_->open.erase(this);
  core_->changed.notify_all();
}

// Frees the delayed task: it may own the reply, which owns this connection.
void HttpConnection::forget_delay() {
  ++delay_number_;
  delay_.reset();
}

void HttpConnection::run_later(std::vector<Task> tasks) {
  uint64_t number = 0;
  {
    std::lock_guard lock(mutex_);
    number = exchange_.number;
  }
  for (Task& task : tasks) reply_post(number, std::move(task));
}

// ---- The server stops

void HttpConnection::leave_when_idle() {
  if (phase_ != Phase::reading) return;
  if (!reader_) return close();
  reader_->refuse(503, "the server is shutting down");
  dispatch();
}

void HttpConnection::announce_stop() {
  std::vector<Task> tasks;
  {
    std::lock_guard lock(mutex_);
    if (!exchange_.open()) return;
    tasks.swap(exchange_.on_stopping);
  }
  run_later(std::move(tasks));
}

// ---- Time limits. All of them share one timer. When a limit moves into the future, as every write
// moves one, the timer is left as it is: when it fires it is set to the next limit.

HttpConnection::Clock::time_point HttpConnection::from_now(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(
                            std::chrono::duration<double>(std::clamp(seconds, 0.0, 1e9)));
}

void HttpConnection::expect_reading_by(Clock::time_point when) {
  read_by_ = when;
  arm_timer();
}

void HttpConnection::expect_writing_by(Clock::time_point when) {
  write_by_ = when;
  arm_timer();
}

void HttpConnection::look_for_peer(Look what, Clock::duration in) {
  if (look_ == what) return;
  look_ = what;
  look_at_ = Clock::now() + in;
  arm_timer();
}

// While pipelined input is left unread, reading does not show the peer's end; so the socket is
// polled.
void HttpConnection::look_at_peer() {
  look_at_ = Clock::now() + kLookTime;
  if (!in_the_making()) return;
  const int fd = socket_.native_handle();
  if (peer_shows(fd, 0)) return abandon();
  if (look_ == Look::for_end && peer_shows(fd, POLLRDHUP)) probe_peer();
}

void HttpConnection::speak_if_quiet() {
  speak_at_ = Clock::time_point::max();
  std::unique_lock lock(mutex_);
  if (exchange_.state() != Exchange::State::streaming || exchange_.quiet.empty()) return;
  const auto silence = from_now(core_->options.quiet_seconds) - Clock::now();
  speak_at_ = exchange_.last_said + silence;
  if (Clock::now() < speak_at_) return;
  append_stream(exchange_.quiet);
  speak_at_ = exchange_.last_said + silence;
  schedule_flush(lock);
}

void HttpConnection::arm_timer() {
  const Clock::time_point next = std::min({read_by_, write_by_, look_at_, speak_at_});
  if (next >= timer_at_ || phase_ == Phase::closed) return;
  timer_at_ = next;
  const uint64_t number = ++timer_number_;
  timer_.expires_at(next);
  timer_.async_wait([self = shared_from_this(), number](error_code) {
    // The timer may have fired just before it was set anew; then the number is an old one.
    if (number == self->timer_number_ && self->phase_ != Phase::closed) self->on_timer();
  });
}

void HttpConnection::on_timer() {
  timer_at_ = Clock::time_point::max();
  const Clock::time_point now = Clock::now();
  if (now >= write_by_) return abandon();
  if (now >= look_at_) look_at_peer();
  if (phase_ == Phase::closed) return;
  if (now >= speak_at_) speak_if_quiet();
  if (now >= read_by_) {
    if (phase_ != Phase::reading || !reader_) return close();
    reader_->refuse(408, fmt::format("the request did not arrive within {} seconds",
                                     core_->options.header_seconds));
    dispatch();
  }
  arm_timer();
}

}  // namespace fathom::server
