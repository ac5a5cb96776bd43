#include "model/step_batch.h"

#include <algorithm>

#include "base/check.h"

namespace fathom {

StepBatch::StepBatch(int step_tokens, int sequences, int max_pages)
    : step_tokens_(step_tokens), max_sequences_(sequences), max_pages_(max_pages) {
  ids_.reserve(step_tokens);
  positions_.reserve(step_tokens);
  sequence_of_.reserve(step_tokens);
  logit_rows_.reserve(step_tokens);
  page_tables_.reserve(static_cast<size_t>(sequences) * max_pages);
  spans_.reserve(2 * static_cast<size_t>(sequences) + static_cast<size_t>(step_tokens));
}

void StepBatch::clear() {
  sequences_ = 0;
  padding_ = 0;
  ids_.clear();
  positions_.clear();
  sequence_of_.clear();
  page_tables_.clear();
  logit_rows_.clear();
  spans_.clear();
}

void StepBatch::add(std::span<const int32_t> ids, int64_t first_position,
                    std::span<const int32_t> pages, bool decode, const FormPolicy& forms) {
  int64_t last = first_position + static_cast<int64_t>(ids.size());
  FATHOM_CHECK(!ids.empty() && tokens() + static_cast<int>(ids.size()) <= step_tokens_,
               "{} tokens added to {} of {}", ids.size(), tokens(), step_tokens_);
  FATHOM_CHECK(sequences_ < max_sequences_, "more than {} sequences", max_sequences_);
  FATHOM_CHECK(static_cast<int64_t>(pages.size()) * kPageRows >= last &&
                   static_cast<int>(pages.size()) <= max_pages_,
               "{} pages (of at most {}) for {} positions", pages.size(), max_pages_, last);
  for (size_t i = 0; i < ids.size(); ++i) {
    int64_t position = first_position + static_cast<int64_t>(i);
    AttentionForm form = forms.form(position, decode);
    int token = tokens();
    if (i == 0 || spans_.back().form != form) spans_.push_back({token, token, sequences_, form});
    spans_.back().end = token + 1;
    ids_.push_back(ids[i]);
    positions_.push_back(static_cast<int32_t>(position));
    sequence_of_.push_back(sequences_);
  }
  page_tables_.insert(page_tables_.end(), pages.begin(), pages.end());
  page_tables_.resize(static_cast<size_t>(++sequences_) * max_pages_, -1);
}

void StepBatch::pad(int tokens, int32_t page) {
  if (this->tokens() >= tokens) return;
  FATHOM_CHECK(tokens <= step_tokens_ && sequences_ < max_sequences_,
               "a step of {} tokens, {} sequences padded to {}", this->tokens(), sequences_,
               tokens);
  while (this->tokens() < tokens) {
    int token = this->tokens();
    spans_.push_back({token, token + 1, sequences_, AttentionForm::absorbed});
    ids_.push_back(0);
    positions_.push_back(0);
    sequence_of_.push_back(sequences_);
    ++padding_;
  }
  page_tables_.push_back(page);
  page_tables_.resize(static_cast<size_t>(++sequences_) * max_pages_, -1);
}

void StepBatch::write_to(MessageWriter& message) const {
  message.put(sequences_);
  message.put(padding_);
  message.put_all(std::span(ids_));
  message.put_all(std::span(positions_));
  message.put_all(std::span(sequence_of_));
  message.put_all(std::span(page_tables_));
  message.put_all(std::span(logit_rows_));
  message.put_all(std::span(spans_));
}

void StepBatch::read_from(MessageReader& message) {
  sequences_ = message.get<int>();
  padding_ = message.get<int>();
  message.get_all(ids_);
  message.get_all(positions_);
  message.get_all(sequence_of_);
  message.get_all(page_tables_);
  message.get_all(logit_rows_);
  message.get_all(spans_);
  FATHOM_CHECK(tokens() <= step_tokens_ && sequences_ <= max_sequences_ &&
                   page_tables_.size() == static_cast<size_t>(sequences_) * max_pages_,
               "a batch of {} tokens, {} sequences for room of {} and {}", tokens(), sequences_,
               step_tokens_, max_sequences_);
}

StepInputs StepBatch::inputs() const {
  StepInputs in;
  in.batch = view();
  in.live = tokens() - padding_;
  in.ids = ids_.data();
  in.logit_rows = logit_rows_;
  return in;
}

BatchView StepBatch::view() const {
  BatchView v;
  v.tokens = tokens();
  v.sequences = sequences_;
  v.positions = positions_.data();
  v.sequence_of = sequence_of_.data();
  v.page_tables = page_tables_.data();
  v.max_pages = max_pages_;
  v.spans = spans_;
  return v;
}

}  // namespace fathom
