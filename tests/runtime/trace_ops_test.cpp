// The hook behind every op: a wrapper that overrides after() alone sees every op of a forward pass,
// once it is done, with the tensors it has written.
#include "kernels/trace_ops.h"

#include <gtest/gtest.h>

#include "runtime/golden.h"

namespace fathom {
namespace {

class Recorder final : public TraceOps {
 public:
  using TraceOps::TraceOps;

  struct Call {
    OpKind kind;
    int layer;
    std::vector<Tensor> results;
  };
  std::vector<Call> calls;

  const Call* find(OpKind kind) const {
    for (const Call& c : calls)
      if (c.kind == kind) return &c;
    return nullptr;
  }

 private:
  void after(OpKind kind, std::span<const Tensor> results) override {
    calls.push_back({kind, layer(), {results.begin(), results.end()}});
  }
};

size_t results_of(OpKind kind) {
  switch (kind) {
    case OpKind::append_latent:
    case OpKind::append_index_key:
      return 0;  // rows of the cache
    case OpKind::add_rms_norm:
    case OpKind::index_query:
    case OpKind::route:
      return 2;
    case OpKind::project:
      return 4;  // of the first call: q_a, kv_a, and the indexer's two
    default:
      return 1;
  }
}

TEST(TraceOps, IsToldOfEveryOpAndItsResults) {
  const Checkpoint& c = golden::checkpoint(true);
  Recorder* recorder = nullptr;
  EvalOptions e = golden::options_of(Numerics::exact);
  e.compute.threads = 1;
  e.compute.kernels = "reference";
  e.compute.context = 8;
  // Taps outside ask the recorder for scores, which the forward pass alone never does.
  std::unique_ptr<Ops> inner;
  e.wrap = [&](Ops& ops) {
    auto made = std::make_unique<Recorder>(ops);
    recorder = made.get();
    inner = std::move(made);
    return std::make_unique<TapOps>(*inner, std::vector<int64_t>{7}, 8);
  };
  Evaluator evaluator(c.config(), c.weights(), e);
  const std::vector<int32_t> ids{1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<int64_t> rows{7};
  std::vector<float> logits;
  evaluator.feed(ids, rows, [&](int64_t, std::span<const float> row) {
    logits.assign(row.begin(), row.end());
  });

  for (int k = 0; k < kOpKinds; ++k) {
    const auto kind = static_cast<OpKind>(k);
    const Recorder::Call* call = recorder->find(kind);
    ASSERT_NE(call, nullptr) << name_of(kind);
    EXPECT_EQ(call->results.size(), results_of(kind)) << name_of(kind);
    for (const Tensor& t : call->results) EXPECT_FALSE(t.empty()) << name_of(kind);
  }
  EXPECT_EQ(recorder->calls.front().kind, OpKind::embed);
  EXPECT_EQ(recorder->calls.front().layer, -1);
  const Recorder::Call& last = recorder->calls.back();
  EXPECT_EQ(last.kind, OpKind::logits);
  EXPECT_EQ(last.layer, c.config().layers - 1);
  // Told when the op is done: the results are there.
  EXPECT_EQ(std::vector<float>(last.results[0].row<float>(0),
                               last.results[0].row<float>(0) + last.results[0].row_size()),
            logits);
}

// A subclass that does an op itself decides whether after() hears of it.
class Silent final : public TraceOps {
 public:
  using TraceOps::TraceOps;
  int told = 0;
  void rms_norm(Tensor out, Tensor x, const float* gain, float eps) override {
    inner_.rms_norm(out, x, gain, eps);
  }
  void mlp(Tensor out, Tensor x, const MlpWeights& w) override { TraceOps::mlp(out, x, w); }

 private:
  void after(OpKind kind, std::span<const Tensor>) override {
    told += kind == OpKind::rms_norm || kind == OpKind::mlp;
  }
};

TEST(TraceOps, AnOverriddenOpIsPassedOnThroughTheBase) {
  const Checkpoint& c = golden::checkpoint(true);
  Silent* silent = nullptr;
  EvalOptions e = golden::options_of(Numerics::exact);
  e.compute.threads = 1;
  e.compute.context = 4;
  e.wrap = [&](Ops& ops) {
    auto made = std::make_unique<Silent>(ops);
    silent = made.get();
    return made;
  };
  Evaluator evaluator(c.config(), c.weights(), e);
  const std::vector<int32_t> ids{1, 2};
  evaluator.feed(ids, {}, {});
  EXPECT_EQ(silent->told, c.config().dense_layers);
}

}  // namespace
}  // namespace fathom
