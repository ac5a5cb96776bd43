// A reply without a socket: tasks wait until the test runs them, what was answered is kept.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http/http.h"

namespace fathom::server {

class FakeReply : public HttpReply, public std::enable_shared_from_this<FakeReply> {
 public:
  void send(int status, std::string_view content_type, std::string body,
            HttpHeaders headers = {}) override {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    EXPECT_EQ(status_, 0) << "answered twice";
    status_ = status;
    content_type_ = content_type;
    body_ = std::move(body);
    headers_ = std::move(headers);
    complete_ = true;
    changed_.notify_all();
  }
  void begin(int status, std::string_view content_type, HttpHeaders headers = {}) override {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    EXPECT_EQ(status_, 0) << "answered twice";
    status_ = status;
    content_type_ = content_type;
    headers_ = std::move(headers);
    streaming_ = true;
    changed_.notify_all();
  }
  void write(std::string bytes) override {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    EXPECT_TRUE(streaming_ && !complete_) << "write outside a stream: " << bytes;
    body_ += bytes;
    writes_.push_back(std::move(bytes));
    changed_.notify_all();
  }
  void end() override {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    EXPECT_TRUE(streaming_ && !complete_) << "end outside a stream";
    complete_ = true;
    changed_.notify_all();
  }
  void post(std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    changed_.notify_all();
  }
  void on_abandoned(std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    if (complete_) return;
    if (gone_) {
      tasks_.push_back(std::move(task));
      changed_.notify_all();
    } else {
      on_abandoned_.push_back(std::move(task));
    }
  }
  void on_stopping(std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    on_stopping_.push_back(std::move(task));
  }
  void post_after(double seconds, std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    timer_seconds_ = seconds;
    timer_ = std::move(task);
  }
  int status() const override {
    const std::lock_guard lock(mutex_);
    return status_;
  }

  // The client goes away.
  void abandon() {
    const std::lock_guard lock(mutex_);
    if (complete_ || gone_) return;
    gone_ = true;
    for (auto& task : on_abandoned_) tasks_.push_back(std::move(task));
    on_abandoned_.clear();
    changed_.notify_all();
  }

  // The server stops and will not wait any longer.
  void stop() {
    const std::lock_guard lock(mutex_);
    if (complete_ || gone_) return;
    for (auto& task : on_stopping_) tasks_.push_back(std::move(task));
    on_stopping_.clear();
    changed_.notify_all();
  }

  // What post_after was told last; and that time has passed.
  double timer_seconds() const {
    const std::lock_guard lock(mutex_);
    return timer_seconds_;
  }
  void expire() {
    const std::lock_guard lock(mutex_);
    if (complete_ || !timer_) return;
    tasks_.push_back(std::exchange(timer_, nullptr));
    changed_.notify_all();
  }

  // Runs what has been posted, on the calling thread, until nothing is left; the number of tasks.
  int run() {
    int count = 0;
    for (std::unique_lock lock(mutex_); !tasks_.empty(); ++count) {
      std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
    }
    return count;
  }

  // Runs tasks as they come, until the answer is complete. False after `limit` without an end.
  bool run_until_complete(std::chrono::seconds limit = std::chrono::seconds(30)) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    for (;;) {
      run();
      std::unique_lock lock(mutex_);
      if (complete_) return true;
      if (!changed_.wait_until(lock, deadline, [&] { return complete_ || !tasks_.empty(); }))
        return false;
    }
  }

  bool complete() const {
    const std::lock_guard lock(mutex_);
    return complete_;
  }
  bool streaming() const {
    const std::lock_guard lock(mutex_);
    return streaming_;
  }
  // What was sent, or all that was written.
  std::string body() const {
    const std::lock_guard lock(mutex_);
    return body_;
  }
  std::vector<std::string> writes() const {
    const std::lock_guard lock(mutex_);
    return writes_;
  }
  std::string content_type() const {
    const std::lock_guard lock(mutex_);
    return content_type_;
  }
  HttpHeaders headers() const {
    const std::lock_guard lock(mutex_);
    return headers_;
  }

 private:
  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::function<void()>> on_abandoned_, on_stopping_;
  std::function<void()> timer_;
  double timer_seconds_ = 0;
  int status_ = 0;
  bool streaming_ = false, complete_ = false, gone_ = false;
  std::string content_type_, body_;
  std::vector<std::string> writes_;
  HttpHeaders headers_;
};

}  // namespace fathom::server
