// What process 0 of a run tells the others: which model to load, and every step that its own ranks
// take. The others (runtime/follow.h) do the same with their ranks and decide nothing, so they
// need neither prompts nor clocks nor random numbers.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "comm/message.h"
#include "comm/process_link.h"
#include "model/checkpoint.h"
#include "runtime/compute_plan.h"
#include "runtime/step_runner.h"

namespace fathom {

enum class Order : uint8_t {
  check,        // whether the checkpoint and the machine fit: answered
  place,        // weights to where the device reads them
  open_engine,  // a RankedRunner: answered
  open_model,   // a ModelRanks: answered
  launch,       // of a runner, and so are
  finish,
  draft,
  write_page,
  step,  // of a model, and so are
  step_from,
  mtp,
  copy_pages,
  close,  // a runner or a model
  end,    // of the run
};

void write_plan(MessageWriter& message, const ComputePlan& plan);
// Of process `process`: the rest as it was written. It has no link yet.
ComputePlan read_plan(MessageReader& message, int process);

// How one runner or model of process 0 speaks to its counterparts. Without a link, or in another
// process than 0, every call does nothing. Throws ExchangeEnded after a failure.
class Orders {
 public:
  explicit Orders(ProcessLink* link);
  ~Orders();  // closes what was opened
  Orders(const Orders&) = delete;
  Orders& operator=(const Orders&) = delete;

  // The counterparts are being made when this returns; wait_until_open() waits until they stand.
  void open_engine(const RunnerSetup& setup);
  void open_model(const Config& config, const ComputePlan& plan);
  void wait_until_open();

  void launch(const StepBatch& batch, std::span<const Draw> draws,
              std::span<const CarriedId> carried);
  void finish();
  void draft(std::span<const DraftRun> runs);
  void write_page(int32_t page, std::span<const std::byte> bytes);
  void step(const StepBatch& batch);
  // `hidden` in the host's memory.
  void step_from(int first_layer, Tensor hidden, const StepBatch& batch);
  void mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
           std::span<const int32_t> from);
  void copy_pages(int from, int to, int count);

 private:
  MessageWriter& begin(Order order);
  void send();

  ProcessLink* link_;  // null: nobody is told anything
  MessageWriter message_;
  uint32_t id_ = 0;  // of the runner or model, by which all processes know it
  bool open_ = false;
};

// What process 0 finds out before it loads anything.
struct FollowersReport {
  int64_t available = 0;  // bytes of memory of the process that has least; of GPUs, with those
};
// Asks all other processes whether they have the same checkpoint and a device for their ranks.
// Throws Error with what one of them answers.
FollowersReport check_followers(ProcessLink& link, const std::string& folder,
                                const std::string& config_file, const ComputePlan& plan);

// Tells them to bring weights to where their devices read them, while this process does the same.
void place_followers(const Config& config, const ComputePlan& plan);

// The end of the run: they leave.
void end_followers(ProcessLink& link);

}  // namespace fathom
