#include "server/server_log.h"

#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <chrono>
#include <cmath>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"

namespace fathom::server {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kQueue = 8192;        // lines
constexpr size_t kMaxBody = 64 << 10;  // of a request's body in a line
constexpr double kFarewell = 5;        // seconds

spdlog::level::level_enum spd_level(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
    case LogLevel::off:
      break;
  }
  return spdlog::level::off;
}

// The members of `object` without its braces: spdlog puts time and level in front of them.
std::string members(const Json& object) {
  const std::string text = object.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.substr(1, text.size() - 2);
}

}  // namespace

LogLevel log_level_of_name(std::string_view name) {
  if (name == "debug") return LogLevel::debug;
  if (name == "info") return LogLevel::info;
  if (name == "warning") return LogLevel::warning;
  if (name == "error") return LogLevel::error;
  if (name == "off") return LogLevel::off;
  fail("log level {}: debug, info, warning, error or off is accepted", name);
}

struct ServerLog::Impl {
  // Resetting the pool joins its writer while the logger and its sink still exist, so queued lines
  // are written first.
  ~Impl() { pool.reset(); }

  std::shared_ptr<spdlog::details::thread_pool> pool =
      std::make_shared<spdlog::details::thread_pool>(kQueue, 1);
  std::shared_ptr<spdlog::async_logger> logger = std::make_shared<spdlog::async_logger>(
      "server", std::make_shared<spdlog::sinks::stderr_sink_mt>(), pool,
      spdlog::async_overflow_policy::overrun_oldest);
};

ServerLog::ServerLog(LogLevel level) : impl_(std::make_unique<Impl>()) {
  impl_->logger->set_level(spd_level(level));
  impl_->logger->set_formatter(std::make_unique<spdlog::pattern_formatter>(
      R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})", spdlog::pattern_time_type::utc));
}

ServerLog::~ServerLog() { finish(kFarewell); }

bool ServerLog::finish(double seconds) {
  if (!impl_) return true;
  // spdlog waits for its writer without a time limit, so another thread waits for spdlog.
  std::packaged_task<void()> end([impl = std::move(impl_)]() mutable { impl.reset(); });
  std::future<void> ended = end.get_future();
  std::thread waiting(std::move(end));
  const bool in_time =
      ended.wait_for(std::chrono::duration<double>(seconds)) == std::future_status::ready;
  if (in_time)
    waiting.join();
  else
    waiting.detach();
  return in_time;
}

void ServerLog::request(const RequestRecord& r) {
  if (!impl_->logger->should_log(spdlog::level::info)) return;
  Json line = {
      {"event", "request"}, {"id", r.id},         {"method", r.method},
      {"path", r.path},     {"status", r.status}, {"seconds", std::round(r.seconds * 1e6) / 1e6},
      {"bytes", r.bytes},   {"peer", r.peer},     {"end", r.end}};
  for (const auto& [name, value] : r.notes)
    std::visit([&line, &key = name](const auto& said) { line[key] = said; }, value);
  if (!r.body.empty()) line["body"] = r.body.substr(0, kMaxBody);
  impl_->logger->log(spdlog::level::info, spdlog::string_view_t(members(line)));
}

void ServerLog::write(LogLevel level, std::string_view message) {
  const auto spd = spd_level(level);
  if (!impl_->logger->should_log(spd)) return;
  impl_->logger->log(spd,
                     spdlog::string_view_t(members({{"event", "message"}, {"message", message}})));
}

}  // namespace fathom::server
