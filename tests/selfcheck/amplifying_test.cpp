// A model whose weights amplify roundings passes the self-check, and a wrong engine still fails it.
#include <gtest/gtest.h>

#include <deque>
#include <numeric>
#include <set>

#include "kernels/trace_ops.h"
#include "model/checkpoint.h"
#include "selfcheck/checks.h"
#include "selfcheck/layers.h"
#include "selfcheck/rows.h"
#include "selfcheck/selfcheck.h"

namespace fathom {
namespace {

const Checkpoint& tiny_model() {
  static const std::unique_ptr<Checkpoint> checkpoint =
      Checkpoint::load(FATHOM_SOURCE_DIR "/tests/data/tiny");
  return *checkpoint;
}

// The tiny model with queries and updates so large that attention sees few positions, and which
// ones depends on the last bits, and with logits so large that it matters.
class Amplifying {
 public:
  Amplifying() : weights_(tiny_model().weights()) {
    for (LayerWeights& layer : weights_.layers) {
      scale(layer.attention.q_b, 8);
      scale(layer.attention.o, 32);
    }
    const float* norm = weights_.norm;
    norm_.assign(norm, norm + tiny_model().config().hidden);
    for (float& gain : norm_) gain *= 4;
    weights_.norm = norm_.data();
  }
  const Weights& weights() const { return weights_; }

 private:
  void scale(QWeight& w, float factor) {
    ASSERT_TRUE(w.is_fp8());
    std::vector<float>& scales = scales_.emplace_back(
        w.scale, w.scale + (w.rows + kFp8Block - 1) / kFp8Block * w.scale_stride);
    for (float& s : scales) s *= factor;
    w.scale = scales.data();
  }

  Weights weights_;
  std::deque<std::vector<float>> scales_;
  std::vector<float> norm_;
};

SelfcheckOptions one_thread() {
  SelfcheckOptions options;
  options.compute.threads = 1;  // quick on a busy machine
  return options;
}

std::set<std::string> failed_with(const Weights& weights, std::vector<std::string> groups,
                                  const OpsWrapper& fault = {}) {
  SelfcheckOptions options = one_thread();
  options.only = std::move(groups);
  options.wrap = fault;
  std::set<std::string> ids;
  for (const CheckResult& r : run_selfcheck(tiny_model().config(), weights, nullptr, options)) {
    if (r.verdict == Verdict::failed) ids.insert(r.id);
    if (fault) continue;
    EXPECT_NE(r.verdict, Verdict::failed) << r.id << ": " << r.figure;
  }
  return ids;
}

TEST(SelfcheckAmplifying, ACorrectEnginePasses) {
  const Amplifying model;
  const SelfcheckOptions options = one_thread();
  CheckContext c{tiny_model().config(), model.weights(), nullptr, options};
  c.ids.resize(100);
  std::iota(c.ids.begin(), c.ids.end(), 1);
  // What one rounding a layer does to the logits: any limit on them that this keeps says nothing.
  const LogitDistance shaken = shaken_logits(c, c.eval(Numerics::bf16), c.ids, c.rows());
  EXPECT_GT(shaken.mean_kl, 0.2);
  failed_with(model.weights(), {"kernels", "chunks", "sparsity", "repeat", "cache"});
}

// Decoding, which attends in the absorbed form, attends with a scale that is wrong by a twentieth.
struct SharpDecode : TraceOps {
  using TraceOps::TraceOps;
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& b, float scale) override {
    inner_.attend_absorbed(out, q, up, picked, kv, b, scale * 1.05f);
  }
};

// What it attends to comes out too large by a twentieth.
struct LoudDecode : TraceOps {
  using TraceOps::TraceOps;
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& b, float scale) override {
    inner_.attend_absorbed(out, q, up, picked, kv, b, scale);
    for (const AttentionSpan& s : b.spans)
      for (int t = s.begin; s.form == AttentionForm::absorbed && t < s.end; ++t) {
        const std::vector<float> row = row_values(out, t);
        for (size_t i = 0; i < row.size(); ++i)
          store(out, t, static_cast<int64_t>(i), row[i] * 1.05f);
      }
  }
};

template <class Fault>
void is_caught() {
  const OpsWrapper fault = [](Ops& ops) { return std::make_unique<Fault>(ops); };
  using Ids = std::set<std::string>;
  EXPECT_EQ(failed_with(tiny_model().weights(), {"chunks"}, fault),
            (Ids{"chunks.decode_bf16", "chunks.decode_exact"}));
  // In bf16 such a model may hide the fault in its roundings; not in exact numerics, and not from
  // the comparison of single ops.
  const Amplifying model;
  const Ids ids = failed_with(model.weights(), {"kernels", "chunks"}, fault);
  EXPECT_TRUE(ids.contains("chunks.decode_exact"));
  EXPECT_TRUE(ids.contains("kernels.attend_absorbed"));
}

TEST(SelfcheckAmplifying, AWrongScaleOfDecodeIsCaught) { is_caught<SharpDecode>(); }

TEST(SelfcheckAmplifying, AWrongResultOfDecodeIsCaught) { is_caught<LoudDecode>(); }

}  // namespace
}  // namespace fathom
