// One coroutine a request on one thread: sockets sleep until something comes, so hundreds of
// streams cost the machine under test next to nothing.
#include "loadgen/load_client.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
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

http::request<http::string_body> make_request(const LoadTarget& target, const std::string& path,
                                              std::string body) {
  http::request<http::string_body> r(http::verb::post, target.prefix + path, 11);
  r.set(http::field::host, authority(target.host, target.port));
  r.set(http::field::content_type, "application/json");
  r.set(http::field::connection, "close");
  if (!target.api_key.empty()) r.set(http::field::authorization, "Bearer " + target.api_key);
  r.body() = std::move(body);
  r.prepare_payload();
  return r;
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

class LoadRun {
 public:
  LoadRun(const LoadTarget& target, const std::vector<PlannedRequest>& plan,
          const std::function<void(int)>& progress)
      : target_(target), plan_(plan), progress_(progress), results_(plan.size()) {
    boost::system::error_code failed;
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
    const http::request<http::string_body> request =
        make_request(target_, target_.chat ? "/v1/chat/completions" : "/v1/completions",
                     request_body(target_, plan_[i]));
    beast::tcp_stream stream(io_);
    stream.expires_after(seconds(target_.request_seconds));
    result.sent = now();
    co_await stream.async_connect(endpoints_, asio::use_awaitable);
    stream.socket().set_option(tcp::no_delay(true));
    co_await http::async_write(stream, request, asio::use_awaitable);
    co_await read_answer(stream, result);
  }

  asio::awaitable<void> read_answer(beast::tcp_stream& stream, LoadResult& result) {
    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    co_await http::async_read_header(stream, buffer, parser, asio::use_awaitable);
    result.status = parser.get().result_int();
    SseReader events;
    Seen seen;
    std::string problem;
    std::array<char, 16384> chunk;
    while (!parser.is_done()) {
      parser.get().body().data = chunk.data();
      parser.get().body().size = chunk.size();
      parser.get().body().more = true;
      boost::system::error_code e;
      co_await http::async_read_some(stream, buffer, parser,
                                     asio::redirect_error(asio::use_awaitable, e));
      if (e && e != http::error::need_buffer) {
        if (e == http::error::end_of_stream && parser.is_done()) break;
        if (result.status == 200 && e != beast::error::timeout)
          fail("the stream broke off: {}", e.message());
        throw boost::system::system_error(e);
      }
      const std::string_view bytes(chunk.data(), chunk.size() - parser.get().body().size);
      if (result.status != 200) {
        problem.append(bytes.substr(0, 300 - std::min<size_t>(300, problem.size())));
        continue;
      }
      for (const std::string& data : events.feed(bytes))
        if (take_event(data, result, seen)) result.events.push_back(now());
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

// Asynchronous, although nothing else runs meanwhile: a stream's time limit holds for nothing else.
asio::awaitable<double> ask_tokens_per_word(const LoadTarget& target,
                                            tcp::resolver::results_type endpoints) {
  constexpr int kSample = 400;
  constexpr double kUsual = 1.3;
  beast::tcp_stream stream(co_await asio::this_coro::executor);
  stream.expires_after(seconds(target.request_seconds));
  co_await stream.async_connect(endpoints, asio::use_awaitable);
  Json body = {{"prompt", random_words(kSample, 1)}, {"add_special_tokens", false}};
  if (!target.model.empty()) body["model"] = target.model;
  const http::request<http::string_body> request = make_request(target, "/tokenize", body.dump());
  co_await http::async_write(stream, request, asio::use_awaitable);
  beast::flat_buffer buffer;
  http::response<http::string_body> answer;
  co_await http::async_read(stream, buffer, answer, asio::use_awaitable);
  const Json reply = Json::parse(answer.body(), nullptr, false);
  if (answer.result() != http::status::ok || !reply.is_object()) co_return kUsual;
  co_return std::max(0.1, reply.value("count", kUsual * kSample) / kSample);
}

}  // namespace

LoadTarget parse_target(const std::string& base_url) {
  LoadTarget t;
  constexpr std::string_view kScheme = "http://";
  std::string_view rest = base_url;
  if (!rest.starts_with(kScheme))
    fail("{}: an address like http://127.0.0.1:8000 is expected (https is not spoken)", base_url);
  rest.remove_prefix(kScheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view authority = rest.substr(0, slash);
  t.prefix = rest.substr(slash);
  while (t.prefix.ends_with('/')) t.prefix.pop_back();
  if (t.prefix.ends_with("/v1")) t.prefix.resize(t.prefix.size() - 3);
  const bool bracketed = authority.starts_with('[');
  const size_t host_end = bracketed ? authority.find(']') : authority.find(':');
  if (bracketed && host_end == authority.npos) fail("{}: no ] behind the address", base_url);
  t.host = authority.substr(bracketed ? 1 : 0, host_end - (bracketed ? 1 : 0));
  const size_t colon = authority.find(':', bracketed ? host_end : 0);
  if (colon != authority.npos) {
    const std::string port(authority.substr(colon + 1));
    if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != port.npos ||
        std::stoi(port) > 65535)
      fail("{}: {} is no port", base_url, port);
    t.port = std::stoi(port);
  }
  if (t.host.empty()) fail("{}: no host is named", base_url);
  return t;
}

double measure_tokens_per_word(const LoadTarget& target) {
  asio::io_context io;
  double result = 0;
  std::exception_ptr problem;
  try {
    const auto endpoints = tcp::resolver(io).resolve(target.host, std::to_string(target.port));
    asio::co_spawn(io, ask_tokens_per_word(target, endpoints),
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
