// The part of HttpConnection that replies call. They may append to the outbox of the current
// exchange on any thread; the connection's strand writes the outbox to the socket.
#include <boost/asio/buffer.hpp>
#include <utility>

#include "server/http/http_answer.h"
#include "server/http/http_connection.h"

namespace fathom::server {

namespace asio = boost::asio;
using boost::system::error_code;

bool HttpConnection::live(uint64_t number) const {
  return exchange_.number == number && exchange_.open();
}

std::vector<HttpConnection::Task> HttpConnection::end_exchange(Exchange::State how) {
  exchange_.to(how);
  std::vector<Task> over = std::exchange(exchange_.on_abandoned, {});
  for (Task& task : std::exchange(exchange_.on_stopping, {})) over.push_back(std::move(task));
  return over;
}

void HttpConnection::append_stream(std::string_view bytes) {
  exchange_.last_said = Clock::now();
  const size_t before = outbox_.size();
  if (exchange_.body == Exchange::Body::chunked)
    append_chunk(outbox_, bytes);
  else if (exchange_.body == Exchange::Body::until_close)
    outbox_ += bytes;
  unsent_ += outbox_.size() - before;
}

void HttpConnection::append_head(int status, std::string_view content_type,
                                 const HttpHeaders& headers, const std::string* body) {
  AnswerHead head;
  head.status = status;
  head.content_type = content_type;
  head.headers = &headers;
  if (core_->stopping) exchange_.keep_alive = false;
  if (body != nullptr) {
    head.length = body->size();
  } else {
    // HTTP/1.0 has no chunks: the end of the stream is the end of the connection.
    head.chunked = exchange_.version >= 11;
    if (!head.chunked) exchange_.keep_alive = false;
    if (exchange_.body != Exchange::Body::none)
      exchange_.body = head.chunked ? Exchange::Body::chunked : Exchange::Body::until_close;
  }
  head.keep_alive = exchange_.keep_alive;
  head.old_client = exchange_.version < 11;
  head.append_to(outbox_);
  if (status < 200 || status == 204 || status == 304) exchange_.body = Exchange::Body::none;
}

void HttpConnection::reply_send(uint64_t number, int status, std::string_view content_type,
                                const std::string& body, const HttpHeaders& headers) {
  std::vector<Task> over;  // released without the lock: a task may own the reply
  std::unique_lock lock(mutex_);
  if (!live(number) || exchange_.state() != Exchange::State::waiting) return;
  const size_t before = outbox_.size();
  append_head(status, content_type, headers, &body);
  if (exchange_.body != Exchange::Body::none) outbox_ += body;
  unsent_ += outbox_.size() - before;
  over = end_exchange(Exchange::State::complete);
  schedule_flush(lock);
}

void HttpConnection::reply_begin(uint64_t number, int status, std::string_view content_type,
                                 const HttpHeaders& headers) {
  std::unique_lock lock(mutex_);
  if (!live(number) || exchange_.state() != Exchange::State::waiting) return;
  const size_t before = outbox_.size();
  append_head(status, content_type, headers, nullptr);
  unsent_ += outbox_.size() - before;
  exchange_.to(Exchange::State::streaming);
  exchange_.last_said = Clock::now();
  schedule_flush(lock);
}

void HttpConnection::reply_write(uint64_t number, std::string_view bytes) {
  std::unique_lock lock(mutex_);
  if (!live(number) || exchange_.state() != Exchange::State::streaming || bytes.empty()) return;
  append_stream(bytes);
  if (unsent_ <= core_->options.max_unsent_bytes) return schedule_flush(lock);
  exchange_.to(Exchange::State::abandoned);
  lock.unlock();
  core_->post(strand(), [self = shared_from_this()] { self->abandon(); });
}

void HttpConnection::reply_end(uint64_t number) {
  std::vector<Task> over;
  std::unique_lock lock(mutex_);
  if (!live(number) || exchange_.state() != Exchange::State::streaming) return;
  if (exchange_.body == Exchange::Body::chunked) {
    outbox_ += kLastChunk;
    unsent_ += kLastChunk.size();
  }
  over = end_exchange(Exchange::State::complete);
  schedule_flush(lock);
}

void HttpConnection::reply_keep_alive(uint64_t number, std::string bytes) {
  {
    std::lock_guard lock(mutex_);
    if (!live(number)) return;
    exchange_.quiet = std::move(bytes);
  }
  core_->post(strand(), [self = shared_from_this()] {
    if (self->phase_ == Phase::closed) return;
    self->speak_if_quiet();
    self->arm_timer();
  });
}

void HttpConnection::reply_dropped(uint64_t number) {
  bool begun = false;
  {
    std::lock_guard lock(mutex_);
    if (!live(number)) return;
    begun = exchange_.state() == Exchange::State::streaming;
  }
  // The last reference to the reply is gone, so nobody else can write to the exchange any more.
  if (!begun)
    return reply_send(number, 500, "application/json",
                      R"({"error":{"message":"the request was not answered","type":"server_error",)"
                      R"("param":null,"code":null}})",
                      {});
  std::vector<Task> over;
  std::unique_lock lock(mutex_);
  if (!live(number)) return;
  over = end_exchange(Exchange::State::broken);
  schedule_flush(lock);
}

void HttpConnection::run(uint64_t number, const Task& task) {
  try {
    task();
  } catch (const std::exception& e) {
    core_->problem(fmt::format("a task of a reply threw: {}", e.what()));
    reply_dropped(number);
  }
}

void HttpConnection::reply_post(uint64_t number, Task task) {
  {
    std::lock_guard lock(mutex_);
    if (exchange_.handler == Exchange::Handler::elsewhere && exchange_.number == number) {
      exchange_.held.push_back(std::move(task));
      return;
    }
  }
  core_->post(strand(), [self = shared_from_this(), number, task = std::move(task)] {
    self->run(number, task);
  });
}

void HttpConnection::reply_post_after(uint64_t number, double seconds, Task task) {
  const Clock::time_point when = from_now(seconds);
  auto set = [self = shared_from_this(), number, when, task = std::move(task)]() {
    {
      std::lock_guard lock(self->mutex_);
      if (!self->live(number)) return;
    }
    if (!self->delay_) self->delay_ = std::make_unique<Timer>(self->strand());
    const uint64_t turn = ++self->delay_number_;
    self->delay_->expires_at(when);
    self->delay_->async_wait([self, number, turn, task](error_code) {
      std::unique_lock lock(self->mutex_);
      const bool due = turn == self->delay_number_ && self->live(number);
      lock.unlock();
      if (due) self->run(number, task);
    });
  };
  reply_post(number, std::move(set));
}

void HttpConnection::reply_on_abandoned(uint64_t number, Task task) {
  std::unique_lock lock(mutex_);
  if (live(number)) {
    exchange_.on_abandoned.push_back(std::move(task));
  } else if (exchange_.number == number && exchange_.state() == Exchange::State::abandoned) {
    lock.unlock();
    reply_post(number, std::move(task));
  }
}

void HttpConnection::reply_on_stopping(uint64_t number, Task task) {
  std::unique_lock lock(mutex_);
  if (!live(number)) return;
  if (!core_->cutting) {
    exchange_.on_stopping.push_back(std::move(task));
    return;
  }
  lock.unlock();
  reply_post(number, std::move(task));
}

// Releases the lock and has the outbox written: at once if this is the strand, else by a task on
// it.
void HttpConnection::schedule_flush(std::unique_lock<std::mutex>& lock) {
  const bool first = !flush_scheduled_;
  flush_scheduled_ = true;
  lock.unlock();
  if (!first) return;
  if (strand().running_in_this_thread())
    flush();
  else
    core_->post(strand(), [self = shared_from_this()] { self->flush(); });
}

void HttpConnection::flush() {
  bool complete = false;
  {
    std::lock_guard lock(mutex_);
    flush_scheduled_ = false;
    if (writing_ || phase_ == Phase::closed) return;
    sending_.swap(outbox_);
    complete = exchange_.ended() && exchange_.handler == Exchange::Handler::here;
  }
  if (!sending_.empty()) {
    write_more();
  } else if (complete && phase_ == Phase::answering) {
    finish_exchange();
  }
}

// Writes what the socket takes at once. An asynchronous write ends in a task of its own, for which
// Asio wakes another thread even if the socket takes everything; for streamed tokens that would
// cost more than the write.
void HttpConnection::write_more() {
  const size_t begin = sent_;
  error_code ec;
  while (sent_ < sending_.size() && !ec)
    sent_ += socket_.write_some(asio::buffer(sending_.data() + sent_, sending_.size() - sent_), ec);
  bool ended = false;
  {
    std::lock_guard lock(mutex_);
    unsent_ -= sent_ - begin;
    ended = exchange_.ended();
  }
  if (ec == asio::error::would_block || ec == asio::error::try_again) return write_when_possible();
  sending_.clear();
  sent_ = 0;
  expect_writing_by(Clock::time_point::max());
  // The caller may be a task of the answer, which what follows an answer must not interrupt.
  if (ec)
    core_->post(strand(), [self = shared_from_this()] { self->abandon(); });
  else if (ended)
    core_->post(strand(), [self = shared_from_this()] { self->flush(); });
}

void HttpConnection::write_when_possible() {
  writing_ = true;
  expect_writing_by(from_now(core_->options.write_seconds));
  socket_.async_wait(Socket::wait_write, [self = shared_from_this()](error_code ec) {
    self->writing_ = false;
    if (self->phase_ == Phase::closed) return;
    if (ec) return self->abandon();
    self->write_more();
    if (!self->writing_) self->flush();
  });
}

}  // namespace fathom::server
