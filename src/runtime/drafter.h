// Drafter makes drafts on any device, by passes of the MTP block over all runs at once. The first
// pass starts from the model's states and completes the block's cache rows. Each further pass
// starts from the block's own state after its last draft.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "model/step_batch.h"
#include "runtime/model_instance.h"
#include "runtime/step_runner.h"

namespace fathom {

class Drafter {
 public:
  // `plan`: of the steps that are drafted for.
  explicit Drafter(const ComputePlan& plan);

  // One row of the block's logits.
  struct Asked {
    size_t run = 0;      // the run whose next token it predicts
    int token = 0;       // token of the pass's batch
    int32_t draft = -1;  // set by Draw; -1: no valid logits, the run gets no more drafts
  };
  // Draws a draft from each row: logits [asked.size(), vocab].
  using Draw = std::function<void(Tensor logits, std::span<Asked> asked)>;

  // Called right after the step that computed the tokens of the runs.
  void run(ModelInstance& model, std::span<const DraftRun> runs, const Draw& draw);

 private:
  void first_pass(ModelInstance& model, std::span<const DraftRun> runs);
  void next_pass(ModelInstance& model, std::span<const DraftRun> runs, int pass);
  void begin();
  void add(ModelInstance& model, std::span<const int32_t> ids, int64_t position,
           const DraftRun& run, bool decode);
  void ask(size_t run);

  StepBatch batch_;
  std::vector<int32_t> next_ids_, from_;
  std::vector<Asked> asked_, before_;
};

// Returns the position of the token that a run's next draft is for. It decides the random number of
// the draw.
inline int64_t draft_position(const DraftRun& run) {
  return run.position + static_cast<int64_t>(run.next_ids.size() + run.drafts->size()) + 1;
}

}  // namespace fathom
