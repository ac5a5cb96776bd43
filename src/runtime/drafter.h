// Makes drafts on any device: passes of the MTP block over all runs at once. The first pass takes
// the model's own states and completes the block's cache rows, each further one takes the block's
// state behind its last guess.
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
  // For steps of that plan.
  explicit Drafter(const ComputePlan& plan);

  // One row of the block's logits.
  struct Asked {
    size_t run = 0;      // whose next token it is for
    int token = 0;       // of the pass's batch
    int32_t guess = -1;  // to be set; -1: the row is broken, and this run gets no more drafts
  };
  // Makes a guess of each row: logits [asked.size(), vocab].
  using Draw = std::function<void(Tensor logits, std::span<Asked> asked)>;

  // Right after the step whose tokens the runs name.
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

// Where the token stands that a run's next guess is for, and so how it is drawn.
inline int64_t guessed_position(const DraftRun& run) {
  return run.position + static_cast<int64_t>(run.next_ids.size() + run.guessed->size()) + 1;
}

}  // namespace fathom
