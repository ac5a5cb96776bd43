// The tokens of one step in one list: prefill chunks and decodes of many sequences together. It is
// all that the runtime passes to the model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/message.h"
#include "kernels/batch_view.h"
#include "model/attention_form.h"

namespace fathom {

class StepBatch {
 public:
  // Reserves room for that many tokens and sequences, with page tables of `max_pages` pages each.
  StepBatch(int step_tokens, int sequences, int max_pages);

  void clear();

  // Appends consecutive tokens of one sequence, the first at `first_position`. `pages` is the
  // sequence's page table and must cover position first_position + ids.size() - 1.
  void add(std::span<const int32_t> ids, int64_t first_position, std::span<const int32_t> pages,
           bool decode, const FormPolicy& forms);

  // Asks for the logits of batch token `token`. The order of the calls is the order of logit rows.
  void want_logits(int token) { logit_rows_.push_back(token); }
  void want_no_logits() { logit_rows_.clear(); }

  int tokens() const { return static_cast<int>(ids_.size()); }
  int sequences() const { return sequences_; }
  std::span<const int32_t> ids() const { return ids_; }
  std::span<const int32_t> positions() const { return positions_; }
  std::span<const int32_t> logit_rows() const { return logit_rows_; }
  BatchView view() const;
  StepInputs inputs() const;

  // Copy the batch to another process. The reading batch must have room for it; its content is
  // replaced.
  void write_to(MessageWriter& message) const;
  void read_from(MessageReader& message);

  // Appends padding until there are `tokens` tokens: all at position 0 of one more sequence, whose
  // rows lie in `page`. No other sequence may use that page.
  void pad(int tokens, int32_t page);

 private:
  int step_tokens_, max_sequences_, max_pages_;
  int sequences_ = 0;
  int padding_ = 0;
  std::vector<int32_t> ids_, positions_, sequence_of_, page_tables_, logit_rows_;
  std::vector<AttentionSpan> spans_;
};

}  // namespace fathom
