#include "runtime/follow.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/error.h"
#include "comm/comm.h"
#include "io/machine.h"
#include "kernels/cpu_ops.h"
#include "kernels/gpu.h"
#include "model/checkpoint.h"
#include "runtime/cache_origin.h"
#include "runtime/channels.h"
#include "runtime/device.h"
#include "runtime/model_ranks.h"
#include "runtime/orders.h"
#include "runtime/runner_follower.h"

namespace fathom {
namespace {

// The counterpart of one model of process 0.
struct ModelFollower {
  ModelFollower(const Config& whole, int index_topk, const RankWeights& weights,
                const ComputePlan& plan, bool record)
      : config(with_topk(whole, index_topk)),
        batches(static_cast<size_t>(plan.layout.data),
                StepBatch(plan.step_tokens, step_sequences(plan.sequences),
                          static_cast<int>(pages_for(plan.context)))),
        model(config, weights, plan, {}, record) {}

  static Config with_topk(Config c, int index_topk) {
    c.index_topk = index_topk;
    return c;
  }
  const Config config;
  std::vector<StepBatch> batches;  // of each group
  ModelRanks model;
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
    if (order == Order::use_random) return use_random(m);
    if (order == Order::place) {
      const bool with_mtp = m.get<bool>();
      weights_for(with_mtp, plan_of(m));
      return;
    }
    if (order == Order::open_groups) return follow_groups(m);
    const uint32_t id = m.get<uint32_t>();
    if (order == Order::open_engine) return open_engine(id, m);
    if (order == Order::open_model) return open_model(id, m);
    if (order == Order::close) {
      runners_.erase(id);
      models_.erase(id);
      return;
    }
    if (const auto it = runners_.find(id); it != runners_.end())
      return it->second->carry_out(order, m);
    const auto it = models_.find(id);
    FATHOM_CHECK(it != models_.end(), "an order {} for {}, which is not open",
                 static_cast<int>(order), id);
    run_model(order, *it->second, m);
  }

  ComputePlan plan_of(MessageReader& m) {
    ComputePlan plan = read_plan(m, link_.process());
    plan.link = &link_;
    return plan;
  }

  // The processes of one machine divide what is free there.
  int64_t memory_here() const { return available_memory() / link_.share().machine.count; }

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
      available =
          plan.device == DeviceKind::cuda ? find_gpu(plan.layout.ranks_here()).free : memory_here();
    } catch (const Error& e) {
      why = e.what();
    }
    answer(why, available);
  }

  // What keeps this process from computing with process 0; empty for nothing.
  std::string obstacle(const ComputePlan& plan, const PageKey& digest, const std::string& first) {
    if (!folder_.empty() && checkpoint_digest(folder_, config_file_) != digest)
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

  void use_random(MessageReader& m) {
    forget();
    checkpoint_.reset();
    random_config_ = parse_config(m.get_text(), "the random model's configuration");
    seed_ = m.get<uint64_t>();
  }

  // Of the whole model.
  const Config& config() const { return random_config_ ? *random_config_ : checkpoint_->config(); }

  void forget() {
    runners_.clear();
    models_.clear();
    weights_.reset();
  }

  const Checkpoint& checkpoint_for(bool with_mtp, const RankLayout& layout) {
    if (checkpoint_ && with_mtp_ == with_mtp && checkpoint_->layout() == layout)
      return *checkpoint_;
    forget();
    CheckpointOptions options;
    options.config_file = config_file_;
    options.with_mtp = with_mtp;
    options.layout = layout;
    checkpoint_ = Checkpoint::load(folder_, options);
    with_mtp_ = with_mtp;
    return *checkpoint_;
  }

  RankWeights weights_for(bool with_mtp, const ComputePlan& plan) {
    if (random_config_) {
      random_config_->mtp_layers = with_mtp ? 1 : 0;
      if (!weights_)
        weights_ = std::make_unique<DeviceWeights>(
            DeviceWeights::random(*random_config_, plan, seed_, "random weights"));
      return weights_->ranks();
    }
    const Checkpoint& checkpoint = checkpoint_for(with_mtp, plan.layout);
    if (!weights_ || placed_.device != plan.device || placed_.numerics != plan.numerics ||
        placed_.observed != plan.observed || placed_.kernels != plan.kernels) {
      weights_.reset();
      weights_ =
          std::make_unique<DeviceWeights>(checkpoint.config(), checkpoint.rank_weights(), plan);
      placed_ = plan;
    }
    return weights_->ranks();
  }

  void open_engine(uint32_t id, MessageReader& m) {
    const EngineOrder order = read_engine_order(m, link_);
    const RankWeights weights = weights_for(order.with_mtp, order.setup.compute);
    runners_[id] = std::make_unique<RunnerFollower>(config(), order, weights, link_);
  }

  void open_model(uint32_t id, MessageReader& m) {
    const bool with_mtp = m.get<bool>();
    const int index_topk = m.get<int>();
    const bool record = m.get<bool>();
    const ComputePlan plan = plan_of(m);
    const RankWeights weights = weights_for(with_mtp, plan);
    models_[id] = std::make_unique<ModelFollower>(config(), index_topk, weights, plan, record);
    answer({}, 0);
  }

  // Each group of this process is followed by a thread, as process 0 has one for each.
  void follow_groups(MessageReader& m) {
    const bool with_mtp = m.get<bool>();
    const ComputePlan plan = plan_of(m);
    const RankWeights weights = weights_for(with_mtp, plan);
    const World world(plan);
    const RankLayout& l = plan.layout;
    std::vector<std::string> failures(static_cast<size_t>(l.groups_here()));
    std::vector<std::thread> threads;
    for (size_t i = 0; i < failures.size(); ++i)
      threads.emplace_back([&, i] {
        const int group = l.first_group_here() + static_cast<int>(i);
        try {
          follow_group(group, weights.part(l.in_group(group).place_here(), l.group_ranks_here()),
                       world.group.get());
        } catch (const std::exception& e) {
          failures[i] = fmt::format("{}: {}", link_.name(link_.process()), e.what());
          world.group->abort(failures[i]);
          link_.fail(failures[i]);  // where it is not known yet
        }
      });
    for (std::thread& t : threads) t.join();
    for (const std::string& why : failures)
      if (!why.empty()) throw ExchangeEnded(link_.failure());
  }

  void follow_group(int group, const RankWeights& weights, CommGroup* all) {
    const auto channel = link_.part(0, link_.processes(), orders_channel(group));
    std::unique_ptr<RunnerFollower> runner;
    std::vector<std::byte> bytes;
    for (;;) {
      channel->receive(0, bytes);
      MessageReader m(bytes);
      const Order order = m.get<Order>();
      if (order == Order::leave) return;
      m.get<uint32_t>();  // there is one runner at a time
      if (order == Order::close)
        runner.reset();
      else if (order == Order::open_engine)
        runner = std::make_unique<RunnerFollower>(config(), read_engine_order(m, link_), weights,
                                                  *channel, all);
      else
        runner->carry_out(order, m);
    }
  }

  void run_model(Order order, ModelFollower& f, MessageReader& m) {
    if (order == Order::copy_pages) {
      const int from = m.get<int>(), to = m.get<int>();
      return f.model.copy_pages(from, to, m.get<int>());
    }
    if (order == Order::records) {
      MessageWriter w;
      w.put_text({});
      const std::vector<RankRecord> records = f.model.records();
      w.put_all(std::span(records));
      return link_.send(0, w.bytes());
    }
    if (order == Order::step) {
      const uint64_t n = m.get<uint64_t>();
      for (uint64_t g = 0; g < n; ++g) f.batches[g].read_from(m);
      f.model.step(std::span(f.batches).first(n));
      return;
    }
    StepBatch& batch = f.batches[0];
    if (order == Order::step_from) {
      const int first = m.get<int>();
      const DType type = m.get<DType>();
      const auto rows = m.get<int64_t>(), width = m.get<int64_t>();
      m.get_all(bytes_);
      batch.read_from(m);
      f.model.step_from(first, Tensor(bytes_.data(), type, {rows, width}), batch);
      return;
    }
    FATHOM_CHECK(order == Order::mtp, "order {} for a model", static_cast<int>(order));
    batch.read_from(m);
    m.get_all(next_ids_);
    m.get_all(from_);
    f.model.mtp(batch, next_ids_, from_);
  }

  ProcessLink& link_;
  std::string folder_, config_file_;
  bool with_mtp_ = false;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::optional<Config> random_config_;  // a model without files
  uint64_t seed_ = 0;                    // of its weights
  ComputePlan placed_;                   // what the weights were placed for
  std::unique_ptr<DeviceWeights> weights_;
  std::map<uint32_t, std::unique_ptr<RunnerFollower>> runners_;  // by the number of the order
  std::map<uint32_t, std::unique_ptr<ModelFollower>> models_;
  // Contents of the last orders for a model.
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
