// What tests of several ranks share: options, engines of the bundled model, requests that collect
// their answers, and ops that watch a rank or fail on it.
#pragma once

#include <new>

#include "base/error.h"
#include "kernels/trace_ops.h"
#include "runtime/golden.h"
#include "runtime/grouped_engine.h"
#include "runtime/small_model.h"

namespace fathom::ranked {

using namespace golden;
using test::random_ids;

inline EvalOptions ranks(Numerics numerics, int tensor) {
  EvalOptions o = options_of(numerics);
  o.compute.layout.tensor = tensor;
  o.compute.threads = tensor;
  return o;
}

// Everything that a rank chose, and the logits that it ended with.
struct Chosen {
  std::vector<int32_t> picked, experts;
  std::vector<float> logits;
  bool operator==(const Chosen&) const = default;
};

class ChoiceTap final : public TraceOps {
 public:
  ChoiceTap(Ops& inner, Chosen& to) : TraceOps(inner), to_(to) {}

 private:
  void after(OpKind kind, std::span<const Tensor> results) override {
    const Tensor& t = results.empty() ? Tensor() : results[0];
    auto append = [&](auto& to, auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      for (int64_t r = 0; r < t.rows(); ++r)
        to.insert(to.end(), t.row<T>(r), t.row<T>(r) + t.row_size());
    };
    if (kind == OpKind::index_topk) append(to_.picked, static_cast<int32_t*>(nullptr));
    if (kind == OpKind::route) append(to_.experts, static_cast<int32_t*>(nullptr));
    if (kind == OpKind::logits) append(to_.logits, static_cast<float*>(nullptr));
  }
  Chosen& to_;
};

// What each rank chose for a prompt in chunks and some decodes.
inline std::vector<Chosen> choices(const Config& c, const RankWeights& weights, EvalOptions o,
                                   int tokens, int step_tokens = 300) {
  std::vector<Chosen> all(static_cast<size_t>(o.compute.layout.ranks()));
  o.wrap = [&](Ops& ops) { return std::make_unique<ChoiceTap>(ops, all[0]); };
  o.wrap_others = [&](Ops& ops, int rank) {
    return std::make_unique<ChoiceTap>(ops, all[static_cast<size_t>(rank)]);
  };
  o.compute.context = tokens + 3;
  o.compute.step_tokens = step_tokens;  // blocks of rows that are shared out, and a tail
  Evaluator evaluator(c, weights, o);
  const std::vector<int32_t> ids = random_ids(tokens + 3, 7, c.vocab);
  std::vector<int64_t> rows;
  for (int64_t r = 5; r < tokens + 3; r += 50) rows.push_back(r);
  rows.push_back(tokens + 2);
  const std::span<const int32_t> all_ids(ids);
  evaluator.feed(all_ids.first(static_cast<size_t>(tokens)), rows, {});
  evaluator.feed(all_ids.subspan(static_cast<size_t>(tokens)), rows, {}, true);
  return all;
}

// Of two sets of logits, over all their rows.
inline double mean_kl(const Chosen& of, const Chosen& from, int vocab) {
  const auto width = static_cast<size_t>(vocab);
  double sum = 0;
  for (size_t at = 0; at < of.logits.size(); at += width)
    sum += kl(std::span(of.logits).subspan(at, width), std::span(from.logits).subspan(at, width));
  return sum / static_cast<double>(of.logits.size() / width);
}

inline EngineOptions engine_options(Numerics numerics, int tensor) {
  EngineOptions o;
  o.compute.numerics = numerics;
  o.compute.layout.tensor = tensor;
  o.compute.threads = tensor;
  o.compute.context = 1024;
  o.compute.step_tokens = 160;
  o.compute.sequences = 5;
  return o;
}

inline std::unique_ptr<ModelEngine> engine_of(const EngineOptions& o, bool tiny = false) {
  EvalOptions eval;
  eval.compute = o.compute;
  return make_engine(checkpoint(tiny).config(), rank_weights_for(tiny, eval), o);
}

inline EngineOptions group_options(Numerics numerics, int tensor, int data) {
  EngineOptions o = engine_options(numerics, tensor);
  o.compute.layout.data = data;
  o.compute.threads = tensor * data;
  return o;
}

struct Answer {
  std::vector<int32_t> ids;
  Finish finish = Finish::none;
  std::string error;
  std::vector<std::vector<int32_t>> selection;  // of the last token, by layer
};

inline Request request_for(std::vector<int32_t> ids, int64_t tokens, Answer& a) {
  Request r;
  r.ids = std::move(ids);
  r.max_new_tokens = tokens;
  r.sampling.temperature = 1;
  r.sampling.seed = 5;
  r.sink = [&a](const TokenEvent& e) {
    if (e.token >= 0) a.ids.push_back(e.token);
    a.finish = e.finish;
    a.error = e.error;
    if (!e.selection) return;
    a.selection.clear();
    for (const auto& layer : e.selection->layers)
      a.selection.emplace_back(layer.begin(), layer.end());
  };
  return r;
}

// Throws in the middle of its rank's step number `step`.
class FailingOps final : public TraceOps {
 public:
  FailingOps(Ops& inner, int step, bool no_memory = false)
      : TraceOps(inner), step_(step), no_memory_(no_memory) {}
  StepInputs begin_step(const StepInputs& in) override {
    ++steps_;
    return TraceOps::begin_step(in);
  }

 private:
  void after(OpKind kind, std::span<const Tensor>) override {
    if (kind != OpKind::route || layer() != 3 || steps_ != step_) return;
    if (no_memory_) throw std::bad_alloc();
    fail("out of memory");
  }
  const int step_;
  const bool no_memory_;
  int steps_ = 0;
};

}  // namespace fathom::ranked
