// Exchange: one request and its answer on a connection. It has the state of the answer, how its
// body is framed, and the tasks that wait for its end.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/check.h"

namespace fathom::server {

// Thread-compatible; HttpConnection guards it with a mutex.
class Exchange {
 public:
  using Clock = std::chrono::steady_clock;
  using Task = std::function<void()>;

  // An exchange begins in `waiting`; the last three are its ends.
  enum class State {
    none,       // no request has arrived
    waiting,    // nothing of the answer is written
    streaming,  // its head is written, and more may follow
    complete,   // all of it is written
    broken,     // it ended early; the client must notice that something is missing
    abandoned,  // nobody reads it any more
  };
  // How the client finds the end of the body.
  enum class Body { sized, chunked, until_close, none };
  // Where the handler runs. If it runs on another thread, tasks wait until it returns.
  enum class Handler { here, elsewhere };

  Exchange() = default;
  Exchange(uint64_t its_number, int http_version)
      : number(its_number), version(http_version), state_(State::waiting) {}

  State state() const { return state_; }
  // Whether something may still be written.
  bool open() const { return state_ == State::waiting || state_ == State::streaming; }

  // Whether everything has been written.
  bool ended() const { return state_ == State::complete || state_ == State::broken; }

  // Changes the state. Anything but a step forward is a bug.
  void to(State next) {
    const bool forward = next == State::streaming ? state_ == State::waiting : open();
    FATHOM_CHECK(forward && next > State::waiting, "an exchange goes from {} to {}",
                 static_cast<int>(state_), static_cast<int>(next));
    state_ = next;
  }

  uint64_t number = 0;
  int version = 11;         // of HTTP, times ten
  bool keep_alive = false;  // the connection outlasts it
  bool refused = false;     // the request could not be read to its end
  Body body = Body::sized;
  Handler handler = Handler::here;
  std::string quiet;                 // what is sent when the stream is silent; empty: nothing
  Clock::time_point last_said = {};  // when something was last sent on the stream
  std::vector<Task> on_abandoned, on_stopping;
  std::vector<Task> held;  // tasks that wait until the handler on another thread returns

 private:
  State state_ = State::none;
};

}  // namespace fathom::server
