// A device that computes nothing but keeps books: it writes the ids it is given into the pages it
// is given, and its logits are a hash of all the ids it finds there for a sequence. So a wrong
// page, a row written too late, a page given away too early or a token from another request all
// change the answer, and a test needs no model to see it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <set>
#include <thread>
#include <vector>

#include "base/error.h"
#include "cache/kv_pool.h"
#include "runtime/engine.h"
#include "runtime/logit_rules.h"

namespace fathom {

inline constexpr int kFakeVocab = 200, kFakeLayers = 3, kFakeTopk = 16;

inline Config fake_config() {
  Config c;
  c.vocab = kFakeVocab;
  c.layers = kFakeLayers;
  c.mtp_layers = 1;
  c.index_heads = 1;
  c.index_dim = 128;
  c.index_topk = kFakeTopk;
  c.max_positions = 1 << 16;
  // What attention forms are chosen by.
  c.latent = 512;
  c.rope = 64;
  c.nope = 128;
  c.value = 128;
  return c;
}

inline uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
inline uint64_t hash_of(std::span<const int32_t> ids) {
  uint64_t h = 1;
  for (int32_t id : ids) h = mixed(h * 31 + static_cast<uint64_t>(id) + 1);
  return h;
}
// The logits behind a text.
inline std::vector<float> fake_logits(uint64_t hash) {
  std::vector<float> row(kFakeVocab);
  for (size_t i = 0; i < row.size(); ++i)
    row[i] = static_cast<float>(mixed(hash + i) % 4096) / 512.0f - 4.0f;
  return row;
}
// What a layer picks of positions [0, n): all of them while they are few.
inline std::vector<int32_t> fake_picks(uint64_t hash, int layer, int n) {
  std::vector<int32_t> picks;
  const int offset = n <= kFakeTopk ? 0
                                    : static_cast<int>((hash + static_cast<uint64_t>(layer)) %
                                                       static_cast<uint64_t>(n - kFakeTopk));
  for (int i = 0; i < std::min(n, kFakeTopk); ++i) picks.push_back(offset + i);
  return picks;
}

class FakeRunner final : public StepRunner {
 public:
  enum class Mode {
    host,   // a step is over when launch() returns
    eager,  // two under way; each computed at once, as a fast device would
    lazy,   // two under way; each computed only when it is waited for
  };

  FakeRunner(Mode mode, int pages, int logit_rows)
      : mode_(mode),
        pages_(pages),
        logit_rows_(logit_rows),
        cache_(static_cast<size_t>(pages) * kPageRows, -1),
        block_(cache_.size(), -1),
        sampler_(kFakeVocab) {}

  int fail_launch = -1, fail_finish = -1;  // the call, counted from 0, in which the device fails
  int launches = 0, finishes = 0, carried_ids = 0, draft_calls = 0;
  std::chrono::microseconds draft_time{0};  // of a call that makes drafts
  int right_of_ten = 7;  // how many of ten drafts are what the model draws if it draws freely
  std::function<void()> on_launch;  // while the engine waits for a step to begin

  int steps_at_once() const override { return mode_ == Mode::host ? 1 : 2; }

  void launch(StepBatch& batch, std::span<const Draw> draws,
              std::span<const CarriedId> carried) override {
    if (launches++ == fail_launch) fall_off();
    if (on_launch) on_launch();
    EXPECT_LT(static_cast<int>(under_way_.size()), steps_at_once());
    EXPECT_EQ(draws.size(), batch.logit_rows().size());
    EXPECT_LE(static_cast<int>(draws.size()), logit_rows_);
    EXPECT_TRUE(carried.empty() || !under_way_.empty()) << "carried from a step that is over";
    carried_ids += static_cast<int>(carried.size());
    Step s;
    const BatchView view = batch.view();
    s.ids.assign(batch.ids().begin(), batch.ids().end());
    s.positions.assign(batch.positions().begin(), batch.positions().end());
    s.sequence_of.assign(view.sequence_of, view.sequence_of + view.tokens);
    s.page_tables.assign(view.page_tables,
                         view.page_tables + int64_t{view.sequences} * view.max_pages);
    s.max_pages = view.max_pages;
    s.logit_rows.assign(batch.logit_rows().begin(), batch.logit_rows().end());
    s.draws.assign(draws.begin(), draws.end());
    s.carried.assign(carried.begin(), carried.end());
    under_way_.push_back(std::move(s));
    if (mode_ != Mode::lazy) compute(under_way_.back());
  }

  void finish(std::vector<Result<int32_t>>& tokens) override {
    if (finishes++ == fail_finish) fall_off();
    ASSERT_FALSE(under_way_.empty());
    compute(under_way_.front());
    finished_ = std::move(under_way_.front());
    under_way_.pop_front();
    tokens.clear();
    for (size_t row = 0; row < finished_.draws.size(); ++row)
      tokens.emplace_back(finished_.draws[row].by_host ? -1 : finished_.drawn[row]);
  }

  // The block joins a position with the token behind it, and its row is that token. Before it
  // drafts, every position of the text must have its row. That of a page's last position depends
  // on the page behind it: in a shared page it may be the one of another text.
  void draft(std::span<const DraftRun> runs) override {
    EXPECT_TRUE(under_way_.empty());
    ++draft_calls;
    if (std::any_of(runs.begin(), runs.end(), [](const DraftRun& r) { return r.wanted > 0; }))
      std::this_thread::sleep_for(draft_time);
    for (const DraftRun& r : runs) {
      for (size_t i = 0; i < r.next_ids.size(); ++i) {
        const size_t token = static_cast<size_t>(r.first) + i;
        const int64_t position = r.position + static_cast<int64_t>(i);
        EXPECT_EQ(finished_.positions[token], position);
        EXPECT_EQ(place(finished_, token, static_cast<int>(position)), place(r, position));
        block_[place(r, position)] = r.next_ids[i];
      }
      if (r.wanted == 0) continue;
      const int64_t known = r.position + static_cast<int64_t>(r.next_ids.size()) + 1;
      std::vector<int32_t> text;
      for (int64_t p = 0; p + 1 < known; ++p) text.push_back(cache_[place(r, p)]);
      text.push_back(r.next_ids.back());
      for (int64_t p = 0; p + 1 < known; ++p) {
        const int32_t row = block_[place(r, p)], next = text[static_cast<size_t>(p) + 1];
        EXPECT_TRUE(row == next || (p % kPageRows == kPageRows - 1 && row >= 0))
            << "the block's row of position " << p << " of " << known << " is " << row << ", not "
            << next;
      }
      make_drafts(r, text);
    }
  }

  std::span<const float> logits(int row) const override {
    EXPECT_TRUE(finished_.draws[static_cast<size_t>(row)].logits);
    return finished_.logits[static_cast<size_t>(row)];
  }
  std::span<const int32_t> picked(int row, int layer) const override {
    EXPECT_TRUE(finished_.draws[static_cast<size_t>(row)].keep_selection);
    return finished_.picks[static_cast<size_t>(row)][static_cast<size_t>(layer)];
  }
  std::string describe() const override { return "fake"; }
  int64_t cache_bytes() const override { return pages_ * kPageRows; }
  // The ids, where a device has rows; what is behind them in a page means nothing.
  void read_page(int32_t page, std::byte* to) override {
    EXPECT_FALSE(failed_) << "rows of a device that has failed";
    std::memcpy(to, &cache_[first_row(page)], kPageRows * sizeof(int32_t));
    std::memcpy(to + kPageRows * sizeof(int32_t), &block_[first_row(page)],
                kPageRows * sizeof(int32_t));
  }
  void write_page(int32_t page, const std::byte* from) override {
    for (Step& s : under_way_) compute(s);  // they may still read what is there
    std::memcpy(&cache_[first_row(page)], from, kPageRows * sizeof(int32_t));
    std::memcpy(&block_[first_row(page)], from + kPageRows * sizeof(int32_t),
                kPageRows * sizeof(int32_t));
  }

 private:
  struct Step {
    std::vector<int32_t> ids, positions, sequence_of, page_tables, logit_rows;
    int max_pages = 0;
    std::vector<Draw> draws;
    std::vector<CarriedId> carried;
    std::vector<int32_t> drawn;
    std::vector<std::vector<float>> logits;
    std::vector<std::vector<std::vector<int32_t>>> picks;  // [row][layer]
    bool computed = false;
  };

  [[noreturn]] void fall_off() {
    failed_ = true;
    fail("the fake device fell off");
  }

  size_t first_row(int32_t page) const {
    EXPECT_TRUE(page >= 0 && page < pages_) << page;
    return static_cast<size_t>(page) * kPageRows;
  }

  size_t place(const Step& s, size_t token, int position) const {
    const int32_t page = s.page_tables[static_cast<size_t>(s.sequence_of[token] * s.max_pages +
                                                           position / kPageRows)];
    return first_row(page) + static_cast<size_t>(position % kPageRows);
  }

  size_t place(const DraftRun& r, int64_t position) const {
    return first_row(r.pages[static_cast<size_t>(position / kPageRows)]) +
           static_cast<size_t>(position % kPageRows);
  }

  void make_drafts(const DraftRun& r, std::vector<int32_t> text) {
    for (int i = 0; i < r.wanted; ++i) {
      const uint64_t hash = hash_of(text);
      // Its own drafts leave rows, too, which later steps overwrite.
      if (i > 0) block_[place(r, static_cast<int64_t>(text.size()) - 2)] = text.back();
      int32_t token =
          sampler_.sample(fake_logits(hash), r.params, static_cast<int64_t>(text.size())).value();
      if (static_cast<int>(mixed(hash + 5) % 10) >= right_of_ten) token = (token + 1) % kFakeVocab;
      r.drafts->push_back(token);
      text.push_back(token);
    }
  }

  void compute(Step& s) {
    if (std::exchange(s.computed, true)) return;
    for (const CarriedId& c : s.carried)
      s.ids[static_cast<size_t>(c.token)] = last_drawn_[static_cast<size_t>(c.row)];
    std::set<size_t> written;
    for (size_t t = 0; t < s.ids.size(); ++t) {
      const size_t at = place(s, t, s.positions[t]);
      EXPECT_TRUE(written.insert(at).second) << "two tokens of a step in one row";
      cache_[at] = s.ids[t];
    }
    for (size_t row = 0; row < s.draws.size(); ++row) {
      const size_t token = static_cast<size_t>(s.logit_rows[row]);
      std::vector<int32_t> text;
      for (int p = 0; p <= s.positions[token]; ++p) text.push_back(cache_[place(s, token, p)]);
      const uint64_t hash = hash_of(text);
      s.logits.push_back(fake_logits(hash));
      s.picks.emplace_back();
      for (int layer = 0; layer < kFakeLayers; ++layer)
        s.picks.back().push_back(fake_picks(hash, layer, static_cast<int>(text.size())));
      const Draw& d = s.draws[row];
      s.drawn.push_back(d.by_host ? -1
                                  : sampler_.sample(s.logits.back(), d.params, d.position).value());
    }
    last_drawn_ = s.drawn;
  }

  const Mode mode_;
  const int pages_, logit_rows_;
  bool failed_ = false;
  std::vector<int32_t> cache_;  // the id in each row,
  std::vector<int32_t> block_;  // and the id in each of the MTP block's
  std::deque<Step> under_way_;
  Step finished_;
  std::vector<int32_t> last_drawn_;
  Sampler sampler_;
};

// What a request must get, computed from its text alone.
inline std::vector<int32_t> fake_answer(const Request& r, int64_t max_context) {
  RuledSampler sampler(kFakeVocab);
  SeenTokens seen;
  seen.add_prompt(r.ids);
  std::vector<int32_t> text = r.ids, answer;
  Request draws = r;  // its own, without the constraint, which has a state
  draws.constraint = nullptr;
  while (static_cast<int64_t>(answer.size()) < r.max_new_tokens &&
         static_cast<int64_t>(text.size()) < max_context) {
    const int64_t n = static_cast<int64_t>(text.size());
    const int32_t id = sampler
                           .draw(fake_logits(hash_of(text)),
                                 {&draws, &seen, static_cast<int64_t>(answer.size()), n})
                           .value();
    answer.push_back(id);
    text.push_back(id);
    seen.add_answer(id);
    if (std::find(r.stop_ids.begin(), r.stop_ids.end(), id) != r.stop_ids.end()) break;
  }
  return answer;
}

}  // namespace fathom
