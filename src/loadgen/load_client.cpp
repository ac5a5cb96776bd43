// One thread runs a coroutine for each request. Sockets that wait take no processor time, so
// hundreds of streams barely load the machine under test.
#include "loadgen/load_client.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/http/parser.hpp>
#include <chrono>
#include <deque>
#include <nlohmann/json.hpp>

#include "base/authority.h"
#include "base/error.h"
#include "loadgen/sse_reader.h"

namespace fathom::loadgen {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

std::string request_body(const LoadTarget& target, const PlannedRequest& r) {
  Json body = {{"stream", true},
               {"stream_options", {{"include_usage", true}}},
               {"temperature", 0},
               {"max_tokens", r.output_tokens}};
  if (!target.model.empty()) body["model"] = target.model;
  if (target.ignore_eos) body["ignore_eos"] = true;
  if (target.chat)
    body["messages"] = {{{"role", "user"}, {"content", r.prompt}}};
  else
    body["prompt"] = r.prompt;
  return body.dump();
}

std::string post(const LoadTarget& target, const std::string& path, const std::string& body) {
  return fmt::format(
      "POST {}{} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n"
      "Connection: close\r\nContent-Length: {}\r\n{}\r\n{}",
      target.prefix, path, authority(target.host, target.port), body.size(),
      target.api_key.empty() ? "" : fmt::format("Authorization: Bearer {}\r\n", target.api_key),
      body);
}

// What was seen of one answer, beside its result.
struct Seen {
  bool events = false, end = false, usage = false;
};

// Reads one event's data into the result; true when it carried text.
bool take_event(const std::string& data, LoadResult& result, Seen& seen) {
  seen.events = true;
  if (data == "[DONE]") {
    seen.end = true;
    return false;
  }
  const Json event = Json::parse(data, nullptr, false);
  if (event.is_discarded() || !event.is_object()) {
    result.error = "an event is not a JSON object";
    return false;
  }
  if (const auto error = event.find("error"); error != event.end() && !error->is_null()) {
    result.error = error->dump().substr(0, 300);
    return false;
  }
  if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
    seen.usage = true;
    result.prompt_tokens = usage->value("prompt_tokens", int64_t{0});
    result.output_tokens = usage->value("completion_tokens", int64_t{0});
    const auto details = usage->find("prompt_tokens_details");
    if (details != usage->end() && details->is_object())
      result.cached_tokens = details->value("cached_tokens", int64_t{0});
  }
  auto filled = [](const Json& object, const char* key) {
    const auto it = object.find(key);
    return it != object.end() && ((it->is_string() && !it->get_ref<const std::string&>().empty()) ||
                                  (it->is_array() && !it->empty()));
  };
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array()) return false;
  bool text = false;
  for (const Json& choice : *choices) {
    if (!choice.is_object()) continue;
    seen.end |= filled(choice, "finish_reason");
    text |= filled(choice, "text");
    const auto delta = choice.find("delta");
    if (delta == choice.end() || !delta->is_object()) continue;
    for (const char* key : {"content", "reasoning_content", "reasoning", "tool_calls"})
      text |= filled(*delta, key);
  }
  return text;
}

Clock::duration seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}

// The bytes of a body as they come, for Beast's parser.
struct PieceBody {
  using value_type = std::string;
  class reader {
   public:
    template <bool isRequest, class Fields>
    reader(http::header<isRequest, Fields>&, std::string& piece) : piece_(piece) {}
    void init(const boost::optional<uint64_t>&, error_code& e) { e = {}; }
    template <class Buffers>
    size_t put(const Buffers& buffers, error_code& e) {
      e = {};
      size_t size = 0;
      for (const asio::const_buffer buffer : beast::buffers_range_ref(buffers)) {
        piece_.append(static_cast<const char*>(buffer.data()), buffer.size());
        size += buffer.size();
      }
      return size;
    }
    void finish(error_code& e) { e = {}; }

   private:
    std::string& piece_;
  };
};

// One request and its answer, on a connection of their own and within a time limit. The bytes are
// read here and only parsed by Beast, whose own asynchronous operations take half a minute to
// compile.
class Exchange {
 public:
  Exchange(asio::io_context& io, double limit_seconds) : line_(std::make_shared<Line>(io)) {
    parser_.body_limit(boost::none);
    parser_.eager(true);
    line_->limit.expires_after(seconds(limit_seconds));
    // The Line may be destroyed when the timer fires, since the handler may be queued already.
    line_->limit.async_wait([line = std::weak_ptr<Line>(line_)](error_code e) {
      const std::shared_ptr<Line> open = line.lock();
      if (e || !open) return;
      open->timed_out = true;
      open->socket.close(e);
    });
  }

  asio::awaitable<void> send(const tcp::resolver::results_type& endpoints,
                             const std::string& request) {
    error_code e;
    co_await asio::async_connect(line_->socket, endpoints,
                                 asio::redirect_error(asio::use_awaitable, e));
    check(e);
    line_->socket.set_option(tcp::no_delay(true), e);
    check(e);
    co_await asio::async_write(line_->socket, asio::buffer(request),
                               asio::redirect_error(asio::use_awaitable, e));
    check(e);
  }

  // The next bytes of the body, empty at its end. Throws system_error when the connection fails or
  // ends too early.
  asio::awaitable<std::string> read() {
    std::string piece;
    while (piece.empty() && !parser_.is_done()) {
      error_code e;
      const size_t size = co_await line_->socket.async_read_some(
          asio::buffer(block_), asio::redirect_error(asio::use_awaitable, e));
      if (e && (e != asio::error::eof || line_->timed_out)) check(e);
      if (e) {
        parser_.put_eof(e);
        check(e);
        break;
      }
      input_.append(block_.data(), size);
      const size_t used = parser_.put(asio::buffer(input_), e);
      input_.erase(0, used);
      if (e != http::error::need_more) check(e);
      piece = std::exchange(parser_.get().body(), {});
    }
    co_return piece;
  }

  int status() const { return head_done() ? parser_.get().result_int() : 0; }
  bool head_done() const { return parser_.is_header_done(); }

 private:
  struct Line {
    explicit Line(asio::io_context& io) : socket(io), limit(io) {}
    tcp::socket socket;
    asio::steady_timer limit;
    bool timed_out = false;
  };

  void check(const error_code& e) const {
    if (line_->timed_out) throw boost::system::system_error(asio::error::timed_out);
    if (e) throw boost::system::system_error(e);
  }

  std::shared_ptr<Line> line_;
  http::response_parser<PieceBody> parser_;
  std::array<char, 16384> block_;
  std::string input_;  // received, not taken by the parser yet
};

class LoadRun {
 public:
  LoadRun(const LoadTarget& target, const std::vector<PlannedRequest>& plan,
          const std::function<void(int)>& progress)
      : target_(target), plan_(plan), progress_(progress), results_(plan.size()) {
    error_code failed;
    endpoints_ = tcp::resolver(io_).resolve(target.host, std::to_string(target.port), failed);
    if (failed) fail("{}: {}", target.host, failed.message());
  }

  std::vector<LoadResult> run() {
    start_ = Clock::now();
    asio::co_spawn(io_, dispatch(), asio::detached);
    io_.run();
    return std::move(results_);
  }

 private:
  double now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  asio::awaitable<void> dispatch() {
    asio::steady_timer timer(io_);
    for (size_t i = 0; i < plan_.size(); ++i) {
      results_[i].planned = plan_[i].at;
      timer.expires_at(start_ + std::chrono::duration_cast<Clock::duration>(
                                    std::chrono::duration<double>(plan_[i].at)));
      co_await timer.async_wait(asio::use_awaitable);
      if (target_.max_concurrency > 0 && active_ >= target_.max_concurrency)
        queue_.push_back(i);
      else
        begin(i);
    }
  }

  void begin(size_t i) {
    ++active_;
    asio::co_spawn(io_, converse(i), [this, i](const std::exception_ptr& problem) {
      if (problem) note_problem(problem, results_[i]);
      results_[i].end = now();
      --active_;
      progress_(++ended_);
      if (queue_.empty()) return;
      const size_t next = queue_.front();
      queue_.pop_front();
      begin(next);
    });
  }

  static void note_problem(const std::exception_ptr& problem, LoadResult& result) {
    try {
      std::rethrow_exception(problem);
    } catch (const boost::system::system_error& e) {
      result.error = e.code() == boost::system::errc::too_many_files_open
                         ? "no more files may be open on this side: raise the limit (ulimit -n) or "
                           "give --max-concurrency"
                         : e.code().message();
    } catch (const std::exception& e) {
      result.error = e.what();
    }
  }

  asio::awaitable<void> converse(size_t i) {
    LoadResult& result = results_[i];
    const std::string request =
        post(target_, target_.chat ? "/v1/chat/completions" : "/v1/completions",
             request_body(target_, plan_[i]));
    Exchange exchange(io_, target_.request_seconds);
    result.sent = now();
    co_await exchange.send(endpoints_, request);
    co_await read_answer(exchange, result);
  }

  asio::awaitable<void> read_answer(Exchange& exchange, LoadResult& result) {
    SseReader events;
    Seen seen;
    std::string problem;
    try {
      for (std::string piece; !(piece = co_await exchange.read()).empty();) {
        result.status = exchange.status();
        if (result.status != 200) {
          problem.append(piece.substr(0, 300 - std::min<size_t>(300, problem.size())));
          continue;
        }
        for (const std::string& data : events.feed(piece))
          if (take_event(data, result, seen)) result.events.push_back(now());
      }
      result.status = exchange.status();
    } catch (const boost::system::system_error& e) {
      result.status = exchange.status();
      if (result.status == 200 && e.code() != asio::error::timed_out)
        fail("the stream broke off: {}", e.code().message());
      throw;
    }
    if (result.status != 200)
      result.error = fmt::format("status {}: {}", result.status, problem);
    else if (result.error.empty() && !seen.events)
      result.error = "the answer has no events";
    else if (result.error.empty() && !seen.end)
      result.error = "the stream broke off";
    if (!result.error.empty() || seen.usage) co_return;
    result.output_tokens = static_cast<int64_t>(result.events.size());
    result.events_counted = true;
  }

  const LoadTarget& target_;
  const std::vector<PlannedRequest>& plan_;
  const std::function<void(int)>& progress_;
  asio::io_context io_{1};
  tcp::resolver::results_type endpoints_;
  Clock::time_point start_;
  std::deque<size_t> queue_;
  int active_ = 0, ended_ = 0;
  std::vector<LoadResult> results_;
};

// Asynchronous, although nothing else runs at that time: only asynchronous operations have a time
// limit.
asio::awaitable<double> ask_tokens_per_word(const LoadTarget& target, asio::io_context& io,
                                            const tcp::resolver::results_type& endpoints) {
  constexpr int kSample = 400;
  constexpr double kUsual = 1.3;
  Json body = {{"prompt", random_words(kSample, 1)}, {"add_special_tokens", false}};
  if (!target.model.empty()) body["model"] = target.model;
  const std::string request = post(target, "/tokenize", body.dump());
  Exchange exchange(io, target.request_seconds);
  co_await exchange.send(endpoints, request);
  std::string answer;
  for (std::string piece; !(piece = co_await exchange.read()).empty();) answer += piece;
  const Json reply = Json::parse(answer, nullptr, false);
  if (exchange.status() != 200 || !reply.is_object()) co_return kUsual;
  co_return std::max(0.1, reply.value("count", kUsual * kSample) / kSample);
}

}  // namespace

LoadTarget parse_target(const std::string& base_url) {
  LoadTarget t;
  constexpr std::string_view kScheme = "http://";
  std::string_view rest = base_url;
  if (!rest.starts_with(kScheme))
    throw UsageError(fmt::format(
        "{}: an address like http://127.0.0.1:8000 is expected (https is not spoken)", base_url));
  rest.remove_prefix(kScheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view authority = rest.substr(0, slash);
  t.prefix = rest.substr(slash);
  while (t.prefix.ends_with('/')) t.prefix.pop_back();
  if (t.prefix.ends_with("/v1")) t.prefix.resize(t.prefix.size() - 3);
  const bool bracketed = authority.starts_with('[');
  const size_t host_end = bracketed ? authority.find(']') : authority.find(':');
  if (bracketed && host_end == authority.npos)
    throw UsageError(fmt::format("{}: no ] behind the address", base_url));
  t.host = authority.substr(bracketed ? 1 : 0, host_end - (bracketed ? 1 : 0));
  const size_t colon = authority.find(':', bracketed ? host_end : 0);
  if (colon != authority.npos) {
    const std::string port(authority.substr(colon + 1));
    if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != port.npos ||
        std::stoi(port) > 65535)
      throw UsageError(fmt::format("{}: {} is no port", base_url, port));
    t.port = std::stoi(port);
  }
  if (t.host.empty()) throw UsageError(fmt::format("{}: no host is named", base_url));
  return t;
}

double measure_tokens_per_word(const LoadTarget& target) {
  asio::io_context io;
  double result = 0;
  std::exception_ptr problem;
  try {
    const auto endpoints = tcp::resolver(io).resolve(target.host, std::to_string(target.port));
    asio::co_spawn(io, ask_tokens_per_word(target, io, endpoints),
                   [&](std::exception_ptr p, double tokens) {
                     problem = std::move(p);
                     result = tokens;
                   });
    io.run();
    if (problem) std::rethrow_exception(problem);
  } catch (const boost::system::system_error& e) {
    fail("http://{}: {}", authority(target.host, target.port), e.code().message());
  }
  return result;
}

std::vector<LoadResult> run_load(const LoadTarget& target, const std::vector<PlannedRequest>& plan,
                                 const std::function<void(int)>& progress) {
  return LoadRun(target, plan, progress).run();
}

}  // namespace fathom::loadgen
