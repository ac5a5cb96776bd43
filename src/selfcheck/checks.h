// State and helpers that the groups of checks share. Internal to run_selfcheck.
#pragma once

#include <fmt/format.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "runtime/device.h"
#include "selfcheck/rig.h"
#include "selfcheck/selfcheck.h"

namespace fathom {

inline constexpr Numerics kAllNumerics[] = {Numerics::exact, Numerics::bf16, Numerics::fp8};

// Nats between the logits of two runs in exact numerics: float32 sums in another order cost 1e-8 in
// the mean and 3e-6 at most (docs/numerics.md).
inline constexpr double kExactMeanKl = 1e-6, kExactMaxKl = 1e-4;

struct CheckContext {
  Config config;  // index_topk lowered in models too large for long sequences
  const Weights& weights;
  const Tokenizer* tokenizer;
  const SelfcheckOptions& options;
  bool large = false;             // too large to compare all of it: weights are sampled
  int64_t model_topk = 0;         // the checkpoint's own
  std::vector<int32_t> ids = {};  // the sequence of the runs
  std::vector<CheckResult> results = {};
  // Weights where the runs read them, which is memory of the checks, too. Placed when first needed.
  mutable std::map<std::pair<std::string, Numerics>, DeviceWeights> placed = {};

  int64_t length() const { return static_cast<int64_t>(ids.size()); }
  // Up to this position a sparse run attends to everything.
  int64_t topk() const { return config.index_topk; }

  EvalOptions eval(Numerics numerics) const {
    EvalOptions e;
    e.compute = options.compute;
    e.compute.layout = {};  // one rank: several are checked against it
    e.compute.link = nullptr;
    e.compute.numerics = numerics;
    e.compute.device = device_of(numerics);
    e.compute.observed = true;
    e.compute.step_tokens = static_cast<int>(ids.size());
    e.compute.context = length();
    e.wrap = options.wrap;
    return e;
  }
  // For checks of single ops on tensors in the host's memory. When a GPU is checked, they run on
  // the reference kernels, with which the GPU is compared op by op: formulas = reference = GPU.
  EvalOptions host_eval(Numerics numerics) const {
    EvalOptions e = eval(numerics);
    if (options.compute.device == DeviceKind::cuda) e.compute.kernels = "reference";
    e.compute.device = DeviceKind::cpu;
    return e;
  }
  DeviceKind device_of(Numerics n) const {
    return n == Numerics::exact ? DeviceKind::cpu : options.compute.device;
  }
  const Weights& weights_for(const EvalOptions& e) const {
    // On a CPU they depend on the kernels alone.
    const bool gpu = e.compute.device == DeviceKind::cuda;
    const std::pair key(gpu ? "gpu" : e.compute.kernels,
                        gpu ? e.compute.numerics : Numerics::exact);
    return placed.try_emplace(key, config, weights, e.compute).first->second.get();
  }
  Rig rig(const EvalOptions& e) const { return Rig(config, weights_for(e), {e, std::nullopt}); }
  // Positions whose logits are compared: the first ones, those around the top-k, the last ones.
  std::vector<int64_t> rows() const;

  void add(std::string id, std::string proves, std::string figure, std::string limit, bool passed);
  void skip(std::string id, std::string proves, std::string why);
};

void check_kernels(CheckContext& c);    // kernels.cpp
void check_selection(CheckContext& c);  // indexer.cpp
void check_indexer_formulas(CheckContext& c);
void check_rotation(CheckContext& c);  // formulas.cpp
void check_router(CheckContext& c);
void check_chunks(CheckContext& c);  // runs.cpp
void check_sparsity(CheckContext& c);
void check_repeat(CheckContext& c);
void check_cache(CheckContext& c);
void check_finite(CheckContext& c);
void check_tokenizer(CheckContext& c);    // text.cpp
void check_mtp(CheckContext& c);          // mtp.cpp
void check_mtp_guesses(CheckContext& c);  // its part that runs the block wrongly on purpose
void check_mtp_norms(CheckContext& c);    // mtp_norms.cpp
void check_ranks(CheckContext& c);        // ranks.cpp

// About 1,400 bytes of English, repeated to make a prompt.
std::string_view selfcheck_text();

// Differences between two sets of logits of the same rows.
struct LogitDistance {
  int64_t rows = 0, different = 0;  // rows with any bit different
  double mean_kl = 0, max_kl = 0;   // nats
};
LogitDistance distance(const LogitRows& a, const LogitRows& b);

// Deterministic values in [-1, 1) for synthetic inputs.
class TestValues {
 public:
  explicit TestValues(uint64_t seed) : state_(seed) {}
  uint64_t next();
  float value() { return static_cast<float>(next() >> 40) * 0x1p-23f - 1.0f; }
  uint64_t below(uint64_t n) { return next() % n; }

 private:
  uint64_t state_;
};

}  // namespace fathom
