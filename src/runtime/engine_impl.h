// The implementation of Engine. One thread steps and owns everything but the inbox. Other threads
// access only the inbox and the published snapshot.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "cache/page_allocator.h"
#include "cache/prefixes.h"
#include "runtime/engine.h"
#include "runtime/logit_rules.h"
#include "runtime/sequence.h"

namespace fathom {

class Engine::Impl {
 public:
  Impl(const Config& config, const RankWeights& weights, const EngineOptions& options);
  Impl(const Config& config, std::unique_ptr<StepRunner> runner, const MemoryPlan& plan,
       const EngineOptions& options);

  Result<RequestId> submit(Request request);
  void cancel(RequestId id);
  EngineSnapshot snapshot() const;
  int64_t context() const { return memory_.context; }
  const MemoryPlan& memory() const { return memory_; }
  PrefixStoreStats cache_dir_stats() const {
    return prefixes_.store() ? prefixes_.store()->stats() : PrefixStoreStats{};
  }
  bool step();
  void take_part();
  void fail_everything(const std::string& why);
  void run(const std::stop_token& stop);
  std::string describe() const;
  EngineStats stats() const;
  void check_integrity() const;

 private:
  using Clock = Sequence::Clock;
  using Owned = std::unique_ptr<Sequence>;
  using Reuse = Sequence::Reuse;

  // A prompt that lacks so many tokens gets rows of the block even where drafting has ended. A step
  // that computes it takes long beside what overlapping hides, and to compute it again would be
  // dear.
  static constexpr int64_t kLongPrompt = 2048;

  // A logit row of a step. It belongs to one of three: the last known token of a sequence, and the
  // next token is drawn from it; a draft after that token; or a prompt token whose
  // log-probabilities are wanted.
  struct Row {
    Sequence* sequence = nullptr;
    int64_t position = 0;
    bool draws = true;
    size_t member = 0;   // index in Flight::members: whose token it belongs to
    int drafts = 0;      // number of draft rows that follow this one
    int32_t draft = -1;  // of a draft row: the draft that it belongs to
  };
  // A sequence whose pages a step uses, and its positions [begin, end) that the step computes.
  struct Member {
    Sequence* sequence = nullptr;
    int64_t begin = 0, end = 0;
    int first = 0;      // the batch token at `begin`
    bool drew = false;  // a token was drawn and delivered
  };
  // A step in flight: launched and not finished.
  struct Flight {
    std::vector<Row> rows;
    std::vector<Member> members;
    int tokens = 0, decodes = 0;  // decodes with their drafts,
    int rejected = 0;             // of these, rejected drafts
    // The next step is launched only after this one is finished, since
    bool logits = false;  // the host reads some row,
    bool block = false;   // or the MTP block runs over its tokens, which decides the next drafts
    Clock::time_point launched, started;  // when launch() was called, and when the device began
    bool ahead = false;                   // launched while another one was in flight
    bool usual_time = true;               // StepRunner::took_usual_time()
    double seconds = 0;                   // of model and sampling
    double host_seconds = 0;              // of planning
    std::optional<double> host_between;   // what the host did since the step before, if measured
  };

  // engine.cpp
  void open_cache_dir();
  void take_inbox();
  void publish();

  // engine_step.cpp: plans and launches the next step
  bool advance();
  std::optional<Flight> launch_next(bool ahead);
  void finish_idle(int left);
  Plan make_plan();
  SeqState state_of(const Sequence& s) const;
  std::span<const int32_t> reusable(const Sequence& s) const;
  bool overlaps() const { return options_.overlap && runner_->steps_at_once() > 1; }
  bool speculates() const { return options_.compute.speculative_tokens > 0; }
  void carry_out(const Plan& plan, Flight& flight);
  Reuse reuse_of(const Sequence& s, std::span<const int32_t> pages) const;
  bool computes_again(std::span<const int32_t> pages) const;
  void admit_and_preempt(const Plan& plan);
  void count_reuse(Sequence& s);
  void add_to_batch(Sequence& s, const Slice& slice, Flight& flight);
  void add_rows(Sequence& s, const Slice& slice, Flight& flight);

  // engine_delivery.cpp: reads and delivers the results
  void retire(Flight& flight);
  void account(Flight& flight, Clock::time_point over);
  void read_logits(const Flight& flight);
  void read_run(const Flight& flight, size_t at, RuledSampler& sampler);
  void read_row(const Row& row, size_t at, RuledSampler& sampler);
  Result<int32_t> draw_for(const Row& row, std::span<const float> logits, RuledSampler& sampler);
  void deliver(Flight& flight, size_t at);
  void keep_pages(const Flight& flight);
  void keep_prefix(Sequence& s, int64_t computed, bool verified);
  void accept(Sequence& s, int32_t token, size_t row, bool drafted);
  const Selection& selection_of(const Sequence& s, size_t row);
  void finish(Sequence& s, Finish how, std::string error = {});
  void end(Sequence& s);
  void drop_cancelled();
  void sweep();
  void release_pages(Sequence& s);

  // engine_draft.cpp: the MTP block's part of a step
  void draft(Flight& flight);
  void choose_drafts(const Flight& flight);
  void give_up_drafts(Sequence& s);
  void resume_drafts();
  static bool wants_block(const Sequence& s, int64_t begin) {
    return !s.without_drafts || begin < s.block_until;
  }
  bool wants_block_rows(const Member& member, int64_t end) const;
  void add_draft_runs(const Member& member, int64_t end);
  int drafts_for(Sequence& s);
  void settle_drafts(Sequence& s);
  void count_run(Sequence& s, int drafts, int accepted);
  void count_acceptance(Sequence& s, int drafts, int accepted);
  void observe_step(const Flight& flight, Clock::time_point over);
  void observe_plain(const Flight& flight, Clock::time_point over);
  void observe_drafting(const Flight& flight, double seconds);

  const Config& config_;
  const EngineOptions options_;
  const MemoryPlan memory_;
  ThreadPool threads_;
  std::unique_ptr<StepRunner> runner_;
  const FormPolicy forms_;
  StepBatch batch_;
  std::vector<Draw> draws_;             // one per logit row,
  std::vector<Result<int32_t>> drawn_;  // and its result
  std::vector<CarriedId> carried_;
  std::vector<TokenLogprobs> logprobs_;  // one per logit row, if asked for
  std::vector<size_t> rows_to_read_;     // rows that the host reads; of a run with drafts the first
  std::vector<DraftRun> draft_runs_;
  std::vector<DraftRegulator::Candidate> candidates_;
  DraftRegulator regulator_;
  std::vector<RuledSampler> samplers_;  // one per thread
  Selection selection_;
  PageAllocator pages_;
  Prefixes prefixes_;  // after pages_: gives its pages back first

  // Both in order of rank: priority, then arrival.
  std::vector<Owned> running_;
  std::deque<Owned> waiting_;
  std::vector<Owned> leaving_;  // ended, but a step in flight still uses their pages
  std::optional<Flight> flight_;
  bool launched_ = false;     // a step was launched since the last take_part()
  int idle_ = 0;              // steps of take_part() in flight: older than flight_
  bool awaits_disk_ = false;  // the first waiting request waits for pages from the disk
  Clock::time_point last_finish_;
  // Since when the host has been busy with what overlapping would hide, if steps follow each other.
  std::optional<Clock::time_point> host_since_, finished_;
  EngineStats stats_;
  int64_t prefix_queries_ = 0, prefix_hits_ = 0;

  mutable std::mutex inbox_mutex_;  // guards what follows
  std::condition_variable_any inbox_filled_;
  std::vector<Owned> inbox_;
  std::vector<RequestId> cancels_;
  RequestId last_id_ = 0;
  // As of the last plan, or the end of its step. Its `waiting` does not count the inbox.
  EngineSnapshot published_;
};

inline double seconds_between(Sequence::Clock::time_point from, Sequence::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace fathom
