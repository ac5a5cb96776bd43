#include "runtime/load_progress.h"

#include <chrono>
#include <span>
#include <vector>

#include "comm/comm.h"
#include "comm/message.h"
#include "runtime/channels.h"

namespace fathom {
namespace {

constexpr std::chrono::milliseconds kBetweenLooks{200};

enum class Question : uint8_t { how_far, all_done };

}  // namespace

LoadProgress::LoadProgress(ProcessLink* link, int64_t total,
                           std::function<void(const Loaded&)> show)
    : link_(link && link->processes() > 1 ? link : nullptr),
      channel_(link_ ? link_->part(0, link_->processes(), kLoadChannel) : nullptr),
      total_(total),
      show_(std::move(show)) {
  const bool leads = !link_ || link_->process() == 0;
  thread_ = std::thread([this, leads] {
    try {
      if (leads)
        lead();
      else
        follow();
    } catch (const Error&) {
      // The link knows the reason, and finish() throws it.
    }
  });
}

LoadProgress::~LoadProgress() {
  if (!thread_.joinable()) return;
  // The first reason is kept: this is one where nobody else knows better.
  if (link_) link_->fail(link_->name(link_->process()) + ": the weights could not be loaded");
  end();
}

void LoadProgress::end() {
  {
    std::lock_guard lock(mutex_);
    finished_ = true;
  }
  wakes_.notify_all();
  thread_.join();
}

Loaded LoadProgress::finish() {
  done_ = total_;
  end();
  if (link_)
    if (const std::string why = link_->failure(); !why.empty()) throw ExchangeEnded(why);
  return all_;
}

void LoadProgress::lead() {
  for (;;) {
    bool finished = false;
    {
      std::unique_lock lock(mutex_);
      finished = wakes_.wait_for(lock, kBetweenLooks, [&] { return finished_; });
    }
    Loaded sum{done_, total_};
    const bool others_finished = !link_ || all_have_finished(sum);
    all_ = sum;
    if (finished && others_finished) break;
    if (show_) show_(sum);
    // Once this process is ready nothing wakes it any more.
    if (finished) std::this_thread::sleep_for(kBetweenLooks / 10);
  }
  if (!link_) return;
  MessageWriter m;
  m.put(Question::all_done);
  for (int p = 1; p < link_->processes(); ++p) channel_->send(p, m.bytes());
}

bool LoadProgress::all_have_finished(Loaded& sum) {
  MessageWriter m;
  m.put(Question::how_far);
  bool finished = true;
  std::vector<std::byte> bytes;
  for (int p = 1; p < link_->processes(); ++p) {
    channel_->send(p, m.bytes());
    channel_->receive(p, bytes);
    MessageReader answer(bytes);
    const auto theirs = answer.get<Loaded>();
    sum.done += theirs.done;
    sum.total += theirs.total;
    finished &= answer.get<bool>();
  }
  return finished;
}

void LoadProgress::follow() {
  std::vector<std::byte> bytes;
  for (;;) {
    channel_->receive(0, bytes);
    if (MessageReader(bytes).get<Question>() == Question::all_done) return;
    MessageWriter m;
    m.put(Loaded{done_, total_});
    {
      std::lock_guard lock(mutex_);
      m.put(finished_);
    }
    channel_->send(0, m.bytes());
  }
}

}  // namespace fathom
