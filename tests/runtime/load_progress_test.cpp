// The count of what all processes load. What stands for a process here is a thread with a link.
#include "runtime/load_progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#include "comm/comm.h"

namespace fathom {
namespace {

using testing::HasSubstr;

// Where messages lie until they are received.
struct Post {
  std::mutex mutex;
  std::condition_variable news;
  std::map<std::tuple<int, int, int>, std::deque<std::vector<std::byte>>>
      mail;  // channel, from, to
  std::string failure;
};

class PostLink final : public ProcessLink {
 public:
  PostLink(std::shared_ptr<Post> post, int process, int processes, int channel = 0)
      : post_(std::move(post)), process_(process), processes_(processes), channel_(channel) {}
  int process() const override { return process_; }
  int processes() const override { return processes_; }
  std::string name(int process) const override { return fmt::format("process {}", process); }
  void send(int to, std::span<const std::byte> message) override {
    std::lock_guard lock(post_->mutex);
    check();
    post_->mail[{channel_, process_, to}].emplace_back(message.begin(), message.end());
    post_->news.notify_all();
  }
  void receive(int from, std::vector<std::byte>& message) override {
    std::unique_lock lock(post_->mutex);
    auto& box = post_->mail[{channel_, from, process_}];
    post_->news.wait(lock, [&] { return !box.empty() || !post_->failure.empty(); });
    check();
    message = box.front();
    box.pop_front();
  }
  void exchange(std::span<const std::span<const std::byte>>,
                std::span<const std::span<std::byte>>) override {
    FAIL();
  }
  std::unique_ptr<ProcessLink> part(int, int, int channel) override {
    return std::make_unique<PostLink>(post_, process_, processes_, channel);
  }
  void set_timeout(double) override {}
  void fail(const std::string& why) override {
    std::lock_guard lock(post_->mutex);
    if (post_->failure.empty()) post_->failure = why;
    post_->news.notify_all();
  }
  std::string failure() const override {
    std::lock_guard lock(post_->mutex);
    return post_->failure;
  }
  void on_failure(std::function<void(const std::string&)>) override {}
  void end() override {}

 private:
  void check() const {
    if (!post_->failure.empty()) throw ExchangeEnded(post_->failure);
  }
  const std::shared_ptr<Post> post_;
  const int process_, processes_, channel_;
};

TEST(LoadProgress, OneProcessShowsItsOwnBytes) {
  std::vector<Loaded> shown;
  LoadProgress p(nullptr, 1000, [&](const Loaded& l) { shown.push_back(l); });
  p.add(400);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  p.add(500);
  const Loaded all = p.finish();
  EXPECT_EQ(all.done, 1000);
  EXPECT_EQ(all.total, 1000);
  ASSERT_FALSE(shown.empty());
  EXPECT_EQ(shown[0].done, 400);
  EXPECT_EQ(shown[0].total, 1000);
}

// Process 0 is ready first and waits for the slowest.
TEST(LoadProgress, Process0ShowsTheBytesOfAllAndWaitsForAll) {
  constexpr int kProcesses = 3;
  const auto post = std::make_shared<Post>();
  std::vector<Loaded> shown[kProcesses];
  Loaded all;
  std::vector<std::thread> threads;
  std::atomic<bool> slowest_ready{false};
  for (int p = 0; p < kProcesses; ++p)
    threads.emplace_back([&, p] {
      PostLink link(post, p, kProcesses);
      auto& own = shown[p];
      LoadProgress progress(&link, 100 * (p + 1), [&](const Loaded& l) { own.push_back(l); });
      progress.add(10 * (p + 1));
      if (p == kProcesses - 1) {
        std::this_thread::sleep_for(std::chrono::milliseconds(700));
        slowest_ready = true;
      }
      const Loaded end = progress.finish();
      EXPECT_TRUE(slowest_ready) << "process " << p;
      if (p == 0) all = end;
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(all.done, 600);
  EXPECT_EQ(all.total, 600);
  ASSERT_FALSE(shown[0].empty());
  for (size_t i = 0; i < shown[0].size(); ++i) {
    EXPECT_EQ(shown[0][i].total, 600);
    EXPECT_GE(shown[0][i].done, i == 0 ? 60 : shown[0][i - 1].done);
  }
  EXPECT_TRUE(shown[1].empty());
  EXPECT_TRUE(shown[2].empty());
}

TEST(LoadProgress, AProcessThatCannotLoadEndsTheWaitOfAll) {
  for (const int victim : {0, 1}) {
    SCOPED_TRACE(victim);
    const auto post = std::make_shared<Post>();
    std::string why[2];
    std::vector<std::thread> threads;
    for (int p = 0; p < 2; ++p)
      threads.emplace_back([&, p] {
        PostLink link(post, p, 2);
        try {
          LoadProgress progress(&link, 100, {});
          if (p == victim) fail("no memory");
          progress.finish();
        } catch (const Error& e) {
          why[p] = e.what();
        }
      });
    for (std::thread& t : threads) t.join();
    EXPECT_EQ(why[victim], "no memory");
    EXPECT_THAT(why[1 - victim],
                HasSubstr(fmt::format("process {}: the weights could not be loaded", victim)));
  }
}

}  // namespace
}  // namespace fathom
