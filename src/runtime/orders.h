// Orders that process 0 of a run sends to the others: which model to load, and every step that its
// own ranks take. The others (runtime/follow.h) do the same with their ranks. They decide nothing,
// so they need no prompts, clocks or random numbers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "comm/message.h"
#include "comm/process_link.h"
#include "model/checkpoint.h"
#include "runtime/compute_plan.h"
#include "runtime/step_runner.h"

namespace fathom {

enum class Order : uint8_t {
  check,        // check checkpoint and machine; answered
  use_random,   // weights of a random model, instead of those of the checkpoint
  place,        // place weights where the device reads them
  open_groups,  // follow the orders for each group on its own channel, until all have left
  open_engine,  // make a RankedRunner; answered
  open_model,   // make a ModelRanks; answered
  launch,       // this and the next four: calls of a runner
  finish,       // answered for a group without ranks in process 0
  draft,
  write_page,
  read_page,  // answered
  step,       // this and the next four: calls of a model
  step_from,
  mtp,
  copy_pages,
  records,  // answered
  close,    // destroy a runner or a model
  leave,    // no more orders for this group
  end,      // end of the run
};

void write_plan(MessageWriter& message, const ComputePlan& plan);
// Reads a plan for process `process`; all else is as it was written. It has no link yet.
ComputePlan read_plan(MessageReader& message, int process);

// The processes other than 0 that have ranks of a group: [first, end).
struct Followers {
  int first = 1, end = 1;
  static Followers all(const RankLayout& layout) { return {1, layout.processes}; }
  static Followers of(const RankLayout& layout, int group) {
    const int first = layout.first_process_of(group);
    return {first > 0 ? first : 1, first + layout.group_processes()};
  }
};

// Sends the orders of one runner or model of process 0 to its counterparts. Without a link or
// followers, or in a process other than 0, every call does nothing. Throws ExchangeEnded after a
// failure.
class Orders {
 public:
  using ReadAnswer = std::function<void(MessageReader&)>;

  Orders(ProcessLink* link, Followers followers);
  ~Orders();  // closes what was opened
  Orders(const Orders&) = delete;
  Orders& operator=(const Orders&) = delete;

  // Starts to make the counterparts; wait_until_open() waits until they are ready.
  void open_engine(const RunnerSetup& setup);
  void open_model(const Config& config, const ComputePlan& plan, bool record);
  void wait_until_open() { await_answers({}); }
  // Calls read() with the answer of each follower, in order, or of the first one alone.
  void await_answers(const ReadAnswer& read);
  void await_answer(const ReadAnswer& read);

  void launch(const StepBatch& batch, std::span<const Draw> draws,
              std::span<const CarriedId> carried);
  void finish();
  void draft(std::span<const DraftRun> runs);
  void write_page(int32_t page, std::span<const std::byte> bytes);
  void read_page(int32_t page);
  void step(std::span<const StepBatch> batches);  // one a group
  // `hidden` in the host's memory.
  void step_from(int first_layer, Tensor hidden, const StepBatch& batch);
  void mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
           std::span<const int32_t> from);
  void copy_pages(int from, int to, int count);
  void ask_for_records();

 private:
  // Sends an order with what fill(MessageWriter&) adds.
  template <class Fill>
  void send(Order order, const Fill& fill);

  ProcessLink* link_;  // null: no orders are sent
  const Followers followers_;
  MessageWriter message_;
  uint32_t id_ = 0;  // number of the runner or model, the same in all processes
  bool open_ = false;
};

// The orders for one of several groups, on a channel of their own. Its counterparts wait for orders
// until it is destroyed.
class GroupChannel {
 public:
  GroupChannel(ProcessLink& link, const RankLayout& layout, int group);
  ~GroupChannel();
  ProcessLink* link() { return link_.get(); }

 private:
  const std::unique_ptr<ProcessLink> link_;
  const Followers followers_;
};

// What process 0 learns before it loads anything.
struct FollowersReport {
  int64_t available = 0;  // bytes of the process with the least memory (of GPUs, if they are used)
};
// Asks all other processes whether they have the same checkpoint (an empty `folder`: none is
// needed) and a device for their ranks. Throws Error with the reason that one of them gives.
FollowersReport check_followers(ProcessLink& link, const std::string& folder,
                                const std::string& config_file, const ComputePlan& plan);

// Tells them that the model is this one, without files: GPUs fill it with random weights.
void use_random_model(ProcessLink& link, const std::string& config, uint64_t seed);

// Tells them to place weights where their devices read them, while this process does the same.
void place_followers(const Config& config, const ComputePlan& plan);

// Tells them to follow the orders for each group of the plan (GroupChannel).
void open_groups(const Config& config, const ComputePlan& plan);

// Tells them that the run is over.
void end_followers(ProcessLink& link);

}  // namespace fathom
