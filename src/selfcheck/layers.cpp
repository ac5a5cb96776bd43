#include "selfcheck/layers.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "selfcheck/rows.h"

namespace fathom {
namespace {

// In units of what one rounding costs. Correct engines stay below half of it: their two forms of
// attention round a few quantities apart, by half a unit at most.
constexpr double kMostRoundings = 1;

// The updates of the residual stream in the order of the model: of layer 0's attention, of its
// feed-forward part, of layer 1's attention. Their rows are positions.
using Updates = std::vector<OwnedTensor>;

// Moves every value of `x` up or down by what an op may err: by one unit in the last place of bf16,
// or by the bound of a float32 sum.
void shake(Tensor x, int64_t summands, TestValues& random) {
  const double share = x.dtype == DType::bf16 ? 2 * half_ulp(DType::bf16) : sum_error(summands);
  for (int64_t t = 0; t < x.rows(); ++t) {
    const std::vector<float> row = row_values(x, t);
    for (size_t i = 0; i < row.size(); ++i) {
      const double move = (random.next() & 1) != 0 ? share : -share;
      store(x, t, static_cast<int64_t>(i), static_cast<float>(row[i] * (1 + move)));
    }
  }
}

// Errors of updates, relative to their lengths; by position.
using UpdateErrors = std::vector<std::map<int64_t, double>>;

// What is done with the updates of one run and the inputs of its layers.
struct LayerUse {
  Updates* keep = nullptr;
  // Puts these in the place of the run's own, and keeps how far its own were from them: every layer
  // starts from what it has started from in the other run.
  const Updates* follow = nullptr;
  UpdateErrors* errors = nullptr;
  int64_t shaken = 0;  // not 0: moves the inputs, by the error of a sum of so many products
};

// Knows the updates by the op that adds them to the residual stream.
class LayerOps final : public TraceOps {
 public:
  LayerOps(Ops& inner, LayerUse use) : TraceOps(inner), use_(use) {}

  StepInputs begin_step(const StepInputs& inputs) override {
    positions_.assign(inputs.batch.positions, inputs.batch.positions + inputs.batch.tokens);
    updates_ = 0;
    in_layer_ = false;
    return TraceOps::begin_step(inputs);
  }
  void enter_layer(int layer) override {
    in_layer_ = true;
    TraceOps::enter_layer(layer);
  }
  void rms_norm(Tensor out, Tensor x, const float* gain, float eps) override {
    TraceOps::rms_norm(out, x, gain, eps);
    // That of the embeddings; those inside a layer are its own matter.
    if (!in_layer_ && use_.shaken) shake(out, use_.shaken, random_);
  }
  void add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                    float eps) override {
    if (use_.keep) use_.keep->push_back(copy_of(update));
    if (use_.follow) follow(update);
    ++updates_;
    TraceOps::add_rms_norm(normed, residual, update, gain, eps);
    if (use_.shaken) shake(normed, use_.shaken, random_);
  }

 private:
  OwnedTensor copy_of(Tensor update) const {
    std::vector<int32_t> rows(positions_.size());
    std::iota(rows.begin(), rows.end(), 0);
    return copy_rows(update, rows);
  }
  void follow(Tensor update) {
    use_.errors->resize(use_.follow->size());
    const Tensor kept = use_.follow->at(updates_).t;
    for (int64_t t = 0; t < update.rows(); ++t) {
      const int64_t position = positions_[static_cast<size_t>(t)];
      const std::vector<float> want = row_values(kept, position);
      std::vector<float> off = row_values(update, t);
      for (size_t i = 0; i < off.size(); ++i) {
        off[i] -= want[i];
        store(update, t, static_cast<int64_t>(i), want[i]);
      }
      const double error = norm_of(off);
      (*use_.errors)[updates_][position] = error == 0 ? 0 : error / norm_of(want);
    }
  }

  const LayerUse use_;
  TestValues random_{2};
  std::vector<int32_t> positions_;
  size_t updates_ = 0;
  bool in_layer_ = false;
};

// One of two runs of a comparison; LayerOps lies outside of a fault that a test injects.
LogitRows run(const CheckContext& c, const EvalOptions& e, LayerUse use,
              std::span<const int32_t> ids, int64_t decode_from, std::span<const int64_t> rows) {
  Rig rig(c.config, c.weights_for(e),
          {e, std::nullopt, [use](Ops& inner) { return std::make_unique<LayerOps>(inner, use); }});
  return rig.run(ids, {static_cast<int>(ids.size())}, decode_from, rows);
}

// Three quarters of the rows have at most this error: where two experts or two positions are nearly
// tied, one rounding changes a row by much.
double usual(std::vector<double> errors) {
  const auto at = errors.begin() + static_cast<std::ptrdiff_t>((errors.size() - 1) * 3 / 4);
  for (double& e : errors)
    if (std::isnan(e)) e = INFINITY;
  std::nth_element(errors.begin(), at, errors.end());
  return *at;
}

}  // namespace

bool LayerComparison::passed() const {
  return logits.rows > 0 && worst <= kMostRoundings && logits.mean_kl <= kExactMeanKl &&
         logits.max_kl <= kExactMaxKl;
}

std::string LayerComparison::figure() const {
  return fmt::format("{:.2f} in {}; logits KL {:.0e}", worst, where, logits.max_kl);
}

std::string LayerComparison::limit() {
  return fmt::format("{} x one rounding; {:.0e}", kMostRoundings, kExactMaxKl);
}

LayerComparison compare_layers(const CheckContext& c, const EvalOptions& one,
                               const EvalOptions& other, std::span<const int32_t> ids,
                               int64_t decode_from, std::span<const int64_t> rows) {
  const auto n = static_cast<int64_t>(ids.size());
  Updates updates;
  UpdateErrors errors, noise;
  const LogitRows want = run(c, one, {.keep = &updates}, ids, n, rows);
  run(c, one, {.follow = &updates, .errors = &noise, .shaken = c.config.latent}, ids, n, rows);
  LayerComparison result;
  result.logits = distance(
      run(c, other, {.follow = &updates, .errors = &errors}, ids, decode_from, rows), want);
  for (size_t i = 0; i < updates.size(); ++i) {
    std::vector<double> of_rows, of_noise;
    for (int64_t row : rows) of_rows.push_back(errors[i].at(row));
    for (const auto& [position, error] : noise[i]) of_noise.push_back(error);
    const double error = usual(of_rows);
    const double share = error == 0 ? 0 : error / usual(of_noise);
    if (share < result.worst) continue;
    result.worst = share;
    result.where = fmt::format("layer {}'s {}", i / 2, i % 2 ? "feed-forward" : "attention");
  }
  return result;
}

LogitDistance shaken_logits(const CheckContext& c, const EvalOptions& e,
                            std::span<const int32_t> ids, std::span<const int64_t> rows) {
  const auto n = static_cast<int64_t>(ids.size());
  return distance(run(c, e, {.shaken = c.config.latent}, ids, n, rows),
                  run(c, e, {}, ids, n, rows));
}

}  // namespace fathom
