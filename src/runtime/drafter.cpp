#include "runtime/drafter.h"

#include "cache/kv_pool.h"

namespace fathom {

Drafter::Drafter(const ComputePlan& plan)
    : batch_(plan.step_tokens, step_sequences(plan.sequences),
             static_cast<int>(pages_for(plan.context))) {
  next_ids_.reserve(static_cast<size_t>(plan.step_tokens));
  from_.reserve(static_cast<size_t>(plan.step_tokens));
}

void Drafter::run(ModelInstance& model, std::span<const DraftRun> runs, const Draw& draw) {
  for (int pass = 0;; ++pass) {
    if (pass == 0)
      first_pass(model, runs);
    else
      next_pass(model, runs, pass);
    if (batch_.tokens() == 0) return;
    const Tensor logits = model.mtp(batch_, next_ids_, from_);
    if (asked_.empty()) return;
    draw(logits, asked_);
    for (const Asked& a : asked_)
      if (a.draft >= 0) runs[a.run].drafts->push_back(a.draft);
  }
}

void Drafter::first_pass(ModelInstance& model, std::span<const DraftRun> runs) {
  begin();
  for (size_t i = 0; i < runs.size(); ++i) {
    const DraftRun& r = runs[i];
    for (size_t t = 0; t < r.next_ids.size(); ++t)
      from_.push_back(r.first + static_cast<int32_t>(t));
    add(model, r.next_ids, r.position, r, r.decode);
    if (r.wanted > 0) ask(i);
  }
}

// Runs that need another draft continue from the block's state at their last one.
void Drafter::next_pass(ModelInstance& model, std::span<const DraftRun> runs, int pass) {
  before_.swap(asked_);
  begin();
  for (const Asked& a : before_) {
    const DraftRun& r = runs[a.run];
    if (a.draft < 0 || r.wanted <= pass) continue;
    from_.push_back(a.token);
    add(model, {&a.draft, 1}, draft_position(r) - 2, r, true);
    ask(a.run);
  }
}

void Drafter::begin() {
  batch_.clear();
  next_ids_.clear();
  from_.clear();
  asked_.clear();
}

// At each position the block takes the token that follows it.
void Drafter::add(ModelInstance& model, std::span<const int32_t> ids, int64_t position,
                  const DraftRun& run, bool decode) {
  next_ids_.insert(next_ids_.end(), ids.begin(), ids.end());
  batch_.add(ids, position, run.pages, decode, model.forms());
}

void Drafter::ask(size_t run) {
  batch_.want_logits(batch_.tokens() - 1);
  asked_.push_back({run, batch_.tokens() - 1, -1});
}

}  // namespace fathom
