// RemoteRunner: the engine's steps of a group that has no rank in process 0. The ranks take them in
// other processes (runner_follower.h), and the first of these sends back what the engine reads: the
// tokens drawn, and the logits and selections that were asked for.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/orders.h"
#include "runtime/step_runner.h"

namespace fathom {

class RemoteRunner final : public StepRunner {
 public:
  // Returns once the ranks are ready.
  explicit RemoteRunner(const RunnerSetup& setup);

  void launch(StepBatch& batch, std::span<const Draw> draws,
              std::span<const CarriedId> carried) override;
  void finish(std::vector<Result<int32_t>>& tokens) override;
  std::span<const float> logits(int row) const override { return logits_.at(row); }
  std::span<const int32_t> picked(int row, int layer) const override {
    return picked_.at(row)[static_cast<size_t>(layer)];
  }
  void copy_pages(int from, int to, int count) override;
  int steps_at_once() const override { return steps_at_once_; }
  std::string describe() const override { return text_; }
  int64_t cache_bytes() const override { return cache_bytes_; }
  void read_page(int32_t page, std::byte* to) override;
  void write_page(int32_t page, const std::byte* from) override;

 private:
  const int layers_;
  const size_t page_bytes_;
  Orders orders_;
  std::string text_;
  int64_t cache_bytes_ = 0;
  int steps_at_once_ = 1;
  // Of the step finished last, by row: what its Draw asked for.
  std::map<int, std::vector<float>> logits_;
  std::map<int, std::vector<std::vector<int32_t>>> picked_;  // by layer
};

// Writes what finish() of a RemoteRunner reads.
void write_results(MessageWriter& message, const StepRunner& runner,
                   std::span<const Result<int32_t>> tokens, std::span<const Draw> draws,
                   int layers);

}  // namespace fathom
