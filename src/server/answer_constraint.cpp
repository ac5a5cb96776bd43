#include "server/answer_constraint.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

namespace fathom::server {
namespace {

// The state of one answer that the engine's thread and the factory's threads share.
class Work {
 public:
  Work(ConstraintFactory& constraints, std::shared_ptr<const CompiledForm> form)
      : constraints_(constraints), matcher_(constraints.matcher(std::move(form))) {}

  // Only one task of an answer runs at a time, and only it uses the matcher.
  static void begin(const std::shared_ptr<Work>& self) {
    self->constraints_.post([self] { self->run(); });
  }

  static void accept(const std::shared_ptr<Work>& self, int32_t token) {
    {
      const std::lock_guard lock(self->mutex_);
      self->tokens_.push_back(token);
      if (!self->ready_) return;  // the running task will see it
      self->ready_ = false;
    }
    begin(self);
  }

  std::span<const uint64_t> wait() {
    std::unique_lock lock(mutex_);
    made_.wait(lock, [this] { return ready_; });
    return mask_;  // not changed before the next accept(), which comes from the same thread
  }

  // No task runs once the mask is ready, and none begins before the next accept().
  size_t possible(std::span<const int32_t> drafts) {
    wait();
    return matcher_->possible(drafts);
  }

  // The answer is dropped: no more masks are needed.
  void abandon() {
    const std::lock_guard lock(mutex_);
    abandoned_ = true;
  }

 private:
  void run() {
    std::vector<uint64_t> mask;
    std::unique_lock lock(mutex_);
    while (true) {
      std::deque<int32_t> tokens = std::exchange(tokens_, {});
      if (abandoned_) break;
      lock.unlock();
      // accept() ignores a token that is not allowed. The engine never draws one; an answer that
      // had one would still end.
      for (const int32_t token : tokens) matcher_->accept(token);
      matcher_->allowed(mask);
      lock.lock();
      if (tokens_.empty()) break;
    }
    mask_.swap(mask);
    ready_ = true;
    made_.notify_all();
  }

  ConstraintFactory& constraints_;
  std::unique_ptr<TokenMatcher> matcher_;  // used by the running task, or by the engine's thread
  std::mutex mutex_;                       // of what follows
  std::condition_variable made_;
  std::deque<int32_t> tokens_;  // accepted, not yet seen by the matcher
  std::vector<uint64_t> mask_;
  bool ready_ = false;  // no task runs, and mask_ is that of the last token
  bool abandoned_ = false;
};

class AnswerConstraint final : public TokenConstraint {
 public:
  AnswerConstraint(ConstraintFactory& constraints, std::shared_ptr<const CompiledForm> form)
      : work_(std::make_shared<Work>(constraints, std::move(form))) {
    Work::begin(work_);
  }
  ~AnswerConstraint() override { work_->abandon(); }

  std::span<const uint64_t> allowed() override { return work_->wait(); }
  void accept(int32_t token) override { Work::accept(work_, token); }
  size_t possible(std::span<const int32_t> drafts) override { return work_->possible(drafts); }

 private:
  std::shared_ptr<Work> work_;  // outlives this object while a task runs
};

}  // namespace

std::shared_ptr<TokenConstraint> make_answer_constraint(ConstraintFactory& constraints,
                                                        std::shared_ptr<const CompiledForm> form) {
  if (!form || restricts_nothing(*form)) return nullptr;
  return std::make_shared<AnswerConstraint>(constraints, std::move(form));
}

}  // namespace fathom::server
