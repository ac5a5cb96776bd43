#include "runtime/follow.h"

#include <algorithm>
#include <map>
#include <memory>

#include "base/check.h"
#include "base/error.h"
#include "comm/comm.h"
#include "io/machine.h"
#include "kernels/cpu_ops.h"
#include "kernels/gpu.h"
#include "model/checkpoint.h"
#include "runtime/cache_origin.h"
#include "runtime/device.h"
#include "runtime/model_ranks.h"
#include "runtime/orders.h"
#include "runtime/ranked_runner.h"

namespace fathom {
namespace {

// The counterpart of one runner or model of process 0.
struct Opened {
  Opened(const Config& whole, int index_topk, const ComputePlan& plan)
      : config(whole),
        batch(plan.step_tokens, step_sequences(plan.sequences),
              static_cast<int>(pages_for(plan.context))) {
    config.index_topk = index_topk;
  }
  Config config;
  StepBatch batch;
  std::unique_ptr<RankedRunner> runner;
  std::unique_ptr<ModelRanks> model;
};

class Follower {
 public:
  explicit Follower(ProcessLink& link) : link_(link) {}

  void run() {
    std::vector<std::byte> bytes;
    for (;;) {
      link_.receive(0, bytes);
      MessageReader m(bytes);
      const Order order = m.get<Order>();
      if (order == Order::end) return;
      carry_out(order, m);
    }
  }

 private:
  void carry_out(Order order, MessageReader& m) {
    if (order == Order::check) return check(m);
    if (order == Order::place) {
      const bool with_mtp = m.get<bool>();
      weights_for(with_mtp, plan_of(m));
      return;
    }
    const uint32_t id = m.get<uint32_t>();
    if (order == Order::open_engine) return open_engine(id, m);
    if (order == Order::open_model) return open_model(id, m);
    if (order == Order::close) {
      opened_.erase(id);
      return;
    }
    const auto it = opened_.find(id);
    FATHOM_CHECK(it != opened_.end(), "an order {} for {}, which is not open",
                 static_cast<int>(order), id);
    Opened& o = *it->second;
    if (o.runner)
      run_engine(order, o, m);
    else
      run_model(order, o, m);
  }

  ComputePlan plan_of(MessageReader& m) {
    ComputePlan plan = read_plan(m, link_.process());
    plan.link = &link_;
    return plan;
  }

  void answer(const std::string& why_not, int64_t available) {
    MessageWriter w;
    w.put_text(why_not);
    w.put(available);
    link_.send(0, w.bytes());
  }

  void check(MessageReader& m) {
    folder_ = m.get_text();
    config_file_ = m.get_text();
    const PageKey digest = m.get<PageKey>();
    const ComputePlan plan = plan_of(m);
    const std::string first = m.get_text();
    std::string why;
    int64_t available = 0;
    try {
      why = obstacle(plan, digest, first);
      available = plan.device == DeviceKind::cuda ? find_gpu(plan.layout.ranks_here()).free
                                                  : available_memory();
    } catch (const Error& e) {
      why = e.what();
    }
    answer(why, available);
  }

  // What keeps this process from computing with process 0; empty for nothing.
  std::string obstacle(const ComputePlan& plan, const PageKey& digest, const std::string& first) {
    if (checkpoint_digest(folder_, config_file_) != digest)
      return fmt::format("{} holds another checkpoint there than for {}", folder_, first);
    if (plan.device == DeviceKind::cuda) {
      const GpuInfo gpu = find_gpu(plan.layout.ranks_here());
      return gpu.usable ? "" : gpu.why_not;
    }
    // Ranks compute some things each for itself, and must find the same bits.
    const std::string_view kernels = pick_cpu_kernels("").name;
    for (const CpuKernels& k : cpu_kernels())
      if (k.name == plan.kernels && k.usable()) return {};
    return fmt::format(
        "its processor has the {} kernels, but not those of {}, {}: --kernels {} "
        "would do for all",
        kernels, first, plan.kernels, kernels);
  }

  const Checkpoint& checkpoint_for(bool with_mtp, const RankLayout& layout) {
    if (checkpoint_ && with_mtp_ == with_mtp && checkpoint_->layout() == layout)
      return *checkpoint_;
    opened_.clear();
    weights_.reset();
    CheckpointOptions options;
    options.config_file = config_file_;
    options.with_mtp = with_mtp;
    options.layout = layout;
    checkpoint_ = Checkpoint::load(folder_, options);
    with_mtp_ = with_mtp;
    return *checkpoint_;
  }

  RankWeights weights_for(bool with_mtp, const ComputePlan& plan) {
    const Checkpoint& checkpoint = checkpoint_for(with_mtp, plan.layout);
    if (!weights_ || placed_.device != plan.device || placed_.numerics != plan.numerics ||
        placed_.observed != plan.observed) {
      weights_.reset();
      weights_ =
          std::make_unique<DeviceWeights>(checkpoint.config(), checkpoint.rank_weights(), plan);
      placed_ = plan;
    }
    return weights_->ranks();
  }

  Opened& open(uint32_t id, bool with_mtp, int index_topk, const ComputePlan& plan) {
    const Config& whole = checkpoint_for(with_mtp, plan.layout).config();
    auto& place = opened_[id];
    place = std::make_unique<Opened>(whole, index_topk, plan);
    return *place;
  }

  void open_engine(uint32_t id, MessageReader& m) {
    const bool with_mtp = m.get<bool>();
    const int index_topk = m.get<int>();
    RunnerSetup setup;
    setup.keep_selection = m.get<bool>();
    setup.compute = plan_of(m);
    const RankWeights weights = weights_for(with_mtp, setup.compute);
    Opened& o = open(id, with_mtp, index_topk, setup.compute);
    setup.config = &o.config;
    o.runner = std::make_unique<RankedRunner>(setup, weights);
    answer({}, 0);
  }

  void open_model(uint32_t id, MessageReader& m) {
    const bool with_mtp = m.get<bool>();
    const int index_topk = m.get<int>();
    const ComputePlan plan = plan_of(m);
    const RankWeights weights = weights_for(with_mtp, plan);
    Opened& o = open(id, with_mtp, index_topk, plan);
    o.model = std::make_unique<ModelRanks>(o.config, weights, plan);
    answer({}, 0);
  }

  void run_engine(Order order, Opened& o, MessageReader& m) {
    if (order == Order::launch) {
      o.batch.read_from(m);
      m.get_all(draws_);
      m.get_all(carried_);
      return o.runner->launch(o.batch, draws_, carried_);
    }
    if (order == Order::finish) return o.runner->finish(tokens_);
    if (order == Order::draft) return draft(o, m);
    FATHOM_CHECK(order == Order::write_page, "order {} for a runner", static_cast<int>(order));
    const auto page = m.get<int32_t>();
    m.get_all(bytes_);
    o.runner->write_page(page, bytes_.data());
  }

  void draft(Opened& o, MessageReader& m) {
    const uint64_t runs = m.get<uint64_t>();
    runs_.resize(runs);
    contents_.resize(std::max<size_t>(contents_.size(), runs));
    for (size_t i = 0; i < runs; ++i) {
      DraftRun& run = runs_[i];
      RunContents& contents = contents_[i];
      run.first = m.get<int>();
      run.position = m.get<int64_t>();
      m.get_all(contents.next_ids);
      m.get_all(contents.pages);
      run.decode = m.get<bool>();
      run.drafts = m.get<int>();
      run.params = m.get<SamplingParams>();
      m.get_all(contents.guessed);
      run.next_ids = contents.next_ids;
      run.pages = contents.pages;
      run.guessed = &contents.guessed;
    }
    o.runner->draft(runs_);
  }

  void run_model(Order order, Opened& o, MessageReader& m) {
    if (order == Order::copy_pages) {
      const int from = m.get<int>(), to = m.get<int>();
      return o.model->copy_pages(from, to, m.get<int>());
    }
    if (order == Order::step_from) {
      const int first = m.get<int>();
      const DType type = m.get<DType>();
      const auto rows = m.get<int64_t>(), width = m.get<int64_t>();
      m.get_all(bytes_);
      o.batch.read_from(m);
      o.model->step_from(first, Tensor(bytes_.data(), type, {rows, width}), o.batch);
      return;
    }
    o.batch.read_from(m);
    if (order == Order::step) {
      o.model->step(o.batch);
      return;
    }
    FATHOM_CHECK(order == Order::mtp, "order {} for a model", static_cast<int>(order));
    m.get_all(next_ids_);
    m.get_all(from_);
    o.model->mtp(o.batch, next_ids_, from_);
  }

  ProcessLink& link_;
  std::string folder_, config_file_;
  bool with_mtp_ = false;
  std::unique_ptr<Checkpoint> checkpoint_;
  ComputePlan placed_;  // what the weights were placed for
  std::unique_ptr<DeviceWeights> weights_;
  std::map<uint32_t, std::unique_ptr<Opened>> opened_;
  // Contents of the last orders.
  std::vector<Draw> draws_;
  std::vector<CarriedId> carried_;
  std::vector<Result<int32_t>> tokens_;
  std::vector<DraftRun> runs_;
  struct RunContents {
    std::vector<int32_t> next_ids, pages, guessed;
  };
  std::vector<RunContents> contents_;  // of those runs
  std::vector<std::byte> bytes_;
  std::vector<int32_t> next_ids_, from_;
};

}  // namespace

void follow(ProcessLink& link) {
  try {
    Follower(link).run();
  } catch (const ExchangeEnded&) {
    throw;
  } catch (const std::exception& e) {
    // RankTeam has told its own failures already; the first reason stays.
    link.fail(fmt::format("{}: {}", link.name(link.process()), e.what()));
    throw;
  }
}

}  // namespace fathom
