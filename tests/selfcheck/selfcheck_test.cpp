// The self-check passes on what is right, and every fault that other engines have had makes the
// line fail that speaks of it.
#include "selfcheck/selfcheck.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/error.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu_ops.h"
#include "kernels/trace_ops.h"
#include "model/checkpoint.h"
#include "selfcheck/checks.h"
#include "selfcheck/rows.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

const std::string kTiny = FATHOM_SOURCE_DIR "/tests/data/tiny";

const Checkpoint& tiny() {
  static const std::unique_ptr<Checkpoint> checkpoint = Checkpoint::load(kTiny);
  return *checkpoint;
}

using Groups = std::vector<std::string>;

std::vector<CheckResult> check(const Groups& only, SelfcheckOptions options = {}) {
  options.only = only;
  return run_selfcheck(tiny().config(), tiny().weights(), nullptr, options);
}

std::set<std::string> failed(const std::vector<CheckResult>& results) {
  std::set<std::string> ids;
  for (const CheckResult& r : results)
    if (r.verdict == Verdict::failed) ids.insert(r.id);
  return ids;
}

// Runs the groups with the kernels wrapped in `Fault`.
template <class Fault>
std::set<std::string> broken(const Groups& only) {
  SelfcheckOptions options;
  options.compute.threads = 1;  // quick on a busy machine
  options.wrap = [](Ops& inner) { return std::make_unique<Fault>(inner); };
  return failed(check(only, options));
}

using Ids = std::set<std::string>;

// ---- the faults

struct Sound : TraceOps {
  using TraceOps::TraceOps;
};

// Reorders a tensor's heads before the indexer treats them.
template <class Order>
void reorder(Tensor x, int64_t dim, const Order& order) {
  std::vector<float> in(static_cast<size_t>(x.row_size()));
  for (int64_t t = 0; t < x.rows(); ++t) {
    load_row(x, t, in.data());
    for (int64_t i = 0; i < x.row_size(); ++i)
      store(x, t, i, in[static_cast<size_t>(i / dim * dim + order(i % dim))]);
  }
}

// Rope in neighbouring pairs, up to a permutation that queries and keys share: what the first
// public demo did.
struct InterleavedIndexer : TraceOps {
  using TraceOps::TraceOps;
  static int64_t order(int64_t i) { return i < 32 ? 2 * i : i < 64 ? 2 * (i - 32) + 1 : i; }
  void index_query(Tensor out, Tensor w, Tensor q, const BatchView& b,
                   const RopeTable& r) override {
    reorder(q, q.dims[2], order);
    inner_.index_query(out, w, q, b, r);
  }
};

// [nope | rope] in the indexer too.
struct SwappedHalves : TraceOps {
  using TraceOps::TraceOps;
  void index_query(Tensor out, Tensor w, Tensor q, const BatchView& b,
                   const RopeTable& r) override {
    int64_t dim = q.dims[2];
    reorder(q, dim, [&](int64_t i) { return (i + dim / 2) % dim; });
    inner_.index_query(out, w, q, b, r);
  }
};

void rotate_halves(float* x, const RopeTable& r, int64_t position) {
  for (int i = 0; i < r.dim / 2; ++i) {
    float c = r.cos_at(position)[i], s = r.sin_at(position)[i];
    float a = x[i], b = x[i + r.dim / 2];
    x[i] = round_bf16(a * c - b * s);
    x[i + r.dim / 2] = round_bf16(a * s + b * c);
  }
}

// fp8 indexer queries without the Hadamard rotation; all else as it should be.
struct NoRotation : TraceOps {
  using TraceOps::TraceOps;
  void index_query(Tensor out, Tensor w, Tensor q, const BatchView& b,
                   const RopeTable& r) override {
    if (out.dtype != DType::fp8_e4m3) return inner_.index_query(out, w, q, b, r);
    int64_t heads = q.dims[1], dim = q.dims[2];
    std::vector<float> row(static_cast<size_t>(q.row_size()));
    std::vector<std::byte> packed(static_cast<size_t>(dim) + 4);
    for (int t = 0; t < b.tokens; ++t) {
      load_row(q, t, row.data());
      for (int64_t h = 0; h < heads; ++h) {
        float* x = &row[static_cast<size_t>(h * dim)];
        rotate_halves(x, r, b.positions[t]);
        write_fp8_row(packed.data(), x, dim, true);
        std::memcpy(static_cast<uint8_t*>(out.data) + t * out.row_stride + h * dim, packed.data(),
                    static_cast<size_t>(dim));
        w.row<float>(t)[h] *= fp8_row_scale(packed.data(), dim, 0) /
                              std::sqrt(static_cast<float>(heads) * static_cast<float>(dim));
      }
    }
  }
};

// The head weights leave out what the query's codes are to be multiplied by.
struct NoQueryScale : TraceOps {
  using TraceOps::TraceOps;
  void index_query(Tensor out, Tensor w, Tensor q, const BatchView& b,
                   const RopeTable& r) override {
    std::vector<float> plain;
    for (int64_t t = 0; t < w.rows(); ++t)
      plain.insert(plain.end(), w.row<float>(t), w.row<float>(t) + w.row_size());
    inner_.index_query(out, w, q, b, r);
    float scale = 1 / std::sqrt(static_cast<float>(q.row_size()));
    for (int64_t t = 0; t < w.rows(); ++t)
      for (int64_t h = 0; h < w.row_size(); ++h)
        w.row<float>(t)[h] = plain[static_cast<size_t>(t * w.row_size() + h)] * scale;
  }
};

// Picks by scores that a subclass makes, with the tie rule of a subclass.
struct OwnScores : TraceOps {
  using TraceOps::TraceOps;
  void index_topk(Tensor picked, Tensor q, Tensor w, const KvView& kv,
                  const BatchView& b) override {
    for (int32_t t = 0; t < b.tokens; ++t) {
      std::vector<float> score(static_cast<size_t>(b.positions[t]) + 1);
      Tensor row(score.data(), DType::f32, {1, b.positions[t] + 1});
      index_scores(row, {&t, 1}, q, w, kv, b);
      std::vector<int32_t> order(score.size());
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int32_t i, int32_t j) {
        float a = score[static_cast<size_t>(i)], c = score[static_cast<size_t>(j)];
        return a != c ? a > c : higher_first() ? i > j : i < j;
      });
      order.resize(std::min(order.size(), static_cast<size_t>(picked.row_size())));
      std::sort(order.begin(), order.end());
      order.resize(static_cast<size_t>(picked.row_size()), -1);
      std::copy(order.begin(), order.end(), picked.row<int32_t>(t));
    }
  }
  virtual bool higher_first() const { return false; }
};

struct TiesToHigher : OwnScores {
  using OwnScores::OwnScores;
  bool higher_first() const override { return true; }
};

struct NoRelu : OwnScores {
  using OwnScores::OwnScores;
  void index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor q, Tensor w,
                    const KvView& kv, const BatchView& b) override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      int32_t t = tokens[i];
      for (int64_t s = 0; s <= b.positions[t]; ++s) {
        std::vector<float> key(static_cast<size_t>(kv.index_dim));
        const float scale = read_index_row(kv, b.cache_row(t, s), key.data());
        double sum = 0;
        for (int64_t h = 0; h < q.dims[1]; ++h)
          for (int64_t j = 0; j < q.dims[2]; ++j)
            sum +=
                value(q, t, h * q.dims[2] + j) * key[static_cast<size_t>(j)] * w.row<float>(t)[h];
        scores.row<float>(static_cast<int64_t>(i))[s] = static_cast<float>(sum * scale);
      }
    }
  }
  static double value(Tensor q, int64_t t, int64_t i) {
    if (q.dtype == DType::fp8_e4m3)
      return fp8_to_float(static_cast<const uint8_t*>(q.data)[t * q.row_stride + i]);
    return q.dtype == DType::bf16 ? to_float(q.row<Bf16>(t)[i]) : q.row<float>(t)[i];
  }
};

template <int percent>
struct Scaled : TraceOps {
  using TraceOps::TraceOps;
  void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& b, float scale) override {
    inner_.attend_expanded(out, q, up, picked, kv, b, scale * percent / 100);
  }
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& b, float scale) override {
    inner_.attend_absorbed(out, q, up, picked, kv, b, scale * percent / 100);
  }
};

// YaRN's m^2 left out of the softmax scale.
struct NoMscale : Scaled<100> {
  using Scaled::Scaled;
  static float plain(float) { return 1 / std::sqrt(192.0f); }
  void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& b, float scale) override {
    inner_.attend_expanded(out, q, up, picked, kv, b, plain(scale));
  }
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& b, float scale) override {
    inner_.attend_absorbed(out, q, up, picked, kv, b, plain(scale));
  }
};

struct BiasedWeights : TraceOps {
  using TraceOps::TraceOps;
  void route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
             const RouterShape& s) override {
    inner_.route(ids, weights, x, gate, bias, s);
    for (int64_t t = 0; t < x.rows() && bias; ++t) {
      float* w = weights.row<float>(t);
      std::vector<float> row(static_cast<size_t>(x.row_size()));
      load_row(x, t, row.data());
      float sum = 0;
      for (int k = 0; k < s.per_token; ++k) {
        int32_t e = ids.row<int32_t>(t)[k];
        float logit = 0;
        for (int64_t i = 0; i < gate.cols; ++i)
          logit += weight_at(gate, e, i) * row[static_cast<size_t>(i)];
        sum += w[k] = 1 / (1 + std::exp(-logit)) + bias[e];
      }
      for (int k = 0; k < s.per_token; ++k) w[k] *= s.scale / sum;
    }
  }
};

struct LatentNotRotated : TraceOps {
  using TraceOps::TraceOps;
  void append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                     const BatchView& b, const RopeTable& r) override {
    std::vector<float> one(static_cast<size_t>(r.positions * r.dim), 1.0f), zero(one.size(), 0.0f);
    inner_.append_latent(kv, kv_a, gain, eps, b, {one.data(), zero.data(), r.dim, r.positions});
  }
};

// What a token gets depends on how many there are in its step.
struct DependsOnStep : TraceOps {
  using TraceOps::TraceOps;
  void mlp(Tensor out, Tensor x, const MlpWeights& w) override {
    inner_.mlp(out, x, w);
    std::vector<float> row(static_cast<size_t>(out.row_size()));
    for (int64_t t = 0; t < out.rows(); ++t) {
      load_row(out, t, row.data());
      for (int64_t i = 0; i < out.row_size(); ++i)
        store(out, t, i,
              row[static_cast<size_t>(i)] * (1 + 0.01f * static_cast<float>(out.rows() % 7)));
    }
  }
};

// Dense attention called sparse.
struct IgnoresPicks : TraceOps {
  using TraceOps::TraceOps;
  void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor, const KvView& kv,
                       const BatchView& b, float scale) override {
    inner_.attend_expanded(out, q, up, {}, kv, b, scale);
  }
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor, const KvView& kv,
                       const BatchView& b, float scale) override {
    inner_.attend_absorbed(out, q, up, {}, kv, b, scale);
  }
};

struct NotFinite : TraceOps {
  using TraceOps::TraceOps;
  void logits(Tensor out, Tensor hidden, const QWeight& head) override {
    inner_.logits(out, hidden, head);
    out.row<float>(0)[3] = INFINITY;
  }
};

// Another answer every time.
struct Wanders : TraceOps {
  using TraceOps::TraceOps;
  int calls = 0;
  void rms_norm(Tensor out, Tensor x, const float* gain, float eps) override {
    inner_.rms_norm(out, x, gain, eps + 1e-3f * static_cast<float>(++calls));
  }
};

// Pages in the order of the sequence, whatever the page table says.
struct IgnoresPageTable : TraceOps {
  using TraceOps::TraceOps;
  void append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                     const BatchView& b, const RopeTable& r) override {
    std::vector<int32_t> pages(static_cast<size_t>(b.max_pages));
    std::iota(pages.begin(), pages.end(), 0);
    BatchView straight = b;
    straight.page_tables = pages.data();
    inner_.append_latent(kv, kv_a, gain, eps, straight, r);
  }
};

// ---- the tests

TEST(Selfcheck, PassesWithEveryKernelOfThisMachine) {
  for (const CpuKernels& k : cpu_kernels()) {
    if (!k.usable()) continue;
    SelfcheckOptions options;
    options.compute.kernels = k.name;
    options.compute.threads = 1;
    std::vector<CheckResult> results =
        k.name == "reference" ? check({"kernels", "selection", "router", "rotation"}, options)
                              : check({}, options);
    for (const CheckResult& r : results)
      EXPECT_NE(r.verdict, Verdict::failed) << k.name << ": " << r.id << ": " << r.figure;
    EXPECT_GE(results.size(), 25u);
    EXPECT_TRUE(all_passed(results));
  }
}

TEST(Selfcheck, ADecoratorThatChangesNothingPasses) {
  EXPECT_EQ(broken<Sound>({"selection", "router"}), Ids{});
}

TEST(Selfcheck, CatchesInterleavedIndexerRope) {
  EXPECT_EQ(broken<InterleavedIndexer>({"kernels", "selection"}),
            (Ids{"kernels.index_query", "selection.query"}));
}

TEST(Selfcheck, CatchesSwappedHalvesOfTheIndexer) {
  EXPECT_EQ(broken<SwappedHalves>({"kernels", "selection"}),
            (Ids{"kernels.index_query", "selection.query"}));
}

TEST(Selfcheck, CatchesAMissingHadamardRotation) {
  EXPECT_EQ(broken<NoRotation>({"kernels", "selection"}),
            (Ids{"kernels.index_query", "selection.query"}));
}

TEST(Selfcheck, CatchesAMissingQueryScale) {
  EXPECT_EQ(broken<NoQueryScale>({"kernels", "selection"}),
            (Ids{"kernels.index_query", "selection.query"}));
}

TEST(Selfcheck, CatchesAMissingRelu) {
  EXPECT_EQ(broken<NoRelu>({"kernels", "selection"}),
            (Ids{"kernels.index_scores", "selection.scores"}));
}

TEST(Selfcheck, CatchesTheWrongTieRule) {
  EXPECT_EQ(broken<OwnScores>({"selection"}), Ids{});
  EXPECT_EQ(broken<TiesToHigher>({"selection"}), (Ids{"selection.zero_query", "selection.ties"}));
}

TEST(Selfcheck, CatchesAWrongSoftmaxScale) {
  EXPECT_EQ(broken<Scaled<105>>({"rotation"}), (Ids{"rotation.scale"}));
  Ids ids = broken<Scaled<150>>({"kernels"});
  EXPECT_TRUE(ids.count("kernels.attend_expanded") && ids.count("kernels.attend_absorbed"));
  EXPECT_EQ(ids.size(), 2u);
}

TEST(Selfcheck, CatchesMscaleLeftOut) {
  EXPECT_EQ(broken<NoMscale>({"rotation"}), (Ids{"rotation.scale"}));
}

TEST(Selfcheck, CatchesRouterWeightsFromBiasedScores) {
  EXPECT_EQ(broken<BiasedWeights>({"kernels", "router"}), (Ids{"kernels.route", "router.random"}));
}

TEST(Selfcheck, CatchesACachedKeyThatIsNotRotated) {
  EXPECT_EQ(broken<LatentNotRotated>({"kernels"}), (Ids{"kernels.append_latent"}));
  EXPECT_EQ(broken<LatentNotRotated>({"rotation"}), (Ids{"rotation.latent"}));
}

TEST(Selfcheck, CatchesResultsThatDependOnThePieces) {
  Ids ids = broken<DependsOnStep>({"chunks"});
  for (const char* id : {"chunks.7", "chunks.64", "chunks.uneven", "chunks.1", "chunks.invariant"})
    EXPECT_TRUE(ids.count(id)) << id;
  EXPECT_EQ(broken<DependsOnStep>({"kernels"}), (Ids{"kernels.mlp"}));
}

TEST(Selfcheck, CatchesDenseAttentionCalledSparse) {
  EXPECT_EQ(broken<IgnoresPicks>({"sparsity"}), (Ids{"sparsity.beyond"}));
}

TEST(Selfcheck, CatchesResultsThatWander) {
  Ids ids = broken<Wanders>({"repeat"});
  EXPECT_TRUE(ids.count("repeat.rerun"));
}

TEST(Selfcheck, CatchesAPageTableThatIsNotRead) {
  EXPECT_TRUE(broken<IgnoresPageTable>({"cache"}).count("cache.pages"));
}

TEST(Selfcheck, CatchesInfinity) {
  EXPECT_EQ(broken<NotFinite>({"finite"}), (Ids{"finite.logits"}));
}

TEST(Selfcheck, AModelWithoutIndexerIsCheckedForTheRest) {
  Config dense = tiny().config();
  dense.index_heads = dense.index_dim = dense.index_topk = 0;
  SelfcheckOptions options;
  options.compute.threads = 1;
  options.only = {"selection", "sparsity", "router", "kernels"};
  std::vector<CheckResult> results = run_selfcheck(dense, tiny().weights(), nullptr, options);
  int skipped = 0;
  for (const CheckResult& r : results) {
    EXPECT_NE(r.verdict, Verdict::failed) << r.id << ": " << r.figure;
    skipped += r.verdict == Verdict::skipped;
  }
  EXPECT_EQ(skipped, 6 + 3 + 4);  // selection, sparsity, the ops of the indexer
}

TEST(Selfcheck, TokenizersAreChecked) {
  Tokenizer tokenizer = Tokenizer::from_folder(FATHOM_SOURCE_DIR "/models/small");
  SelfcheckOptions options;
  options.only = {"text"};
  std::vector<CheckResult> results =
      run_selfcheck(tiny().config(), tiny().weights(), &tokenizer, options);
  ASSERT_EQ(results.size(), 3u);
  for (const CheckResult& r : results) EXPECT_EQ(r.verdict, Verdict::passed) << r.figure;
}

TEST(Selfcheck, UnknownGroupsAreRefused) { EXPECT_THROW(check({"kernel"}), Error); }

// The program itself: exit code and report.
std::pair<int, std::string> run_program(const std::string& arguments) {
  std::string out;
  FILE* pipe =
      popen((std::string(FATHOM_BINARY) + " selfcheck " + arguments + " 2>&1").c_str(), "r");
  char block[4096];
  for (size_t n; (n = fread(block, 1, sizeof(block), pipe)) > 0;) out.append(block, n);
  int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, out};
}

TEST(SelfcheckProgram, ReportsAsTextAndJson) {
  auto [code, text] = run_program("--ckpt-path " + kTiny + " --only router,rotation");
  EXPECT_EQ(code, 0) << text;
  EXPECT_NE(text.find("PASSED: 6 checks passed, 0 failed"), std::string::npos) << text;
  auto [json_code, json] = run_program("--ckpt-path " + kTiny + " --only router --json");
  EXPECT_EQ(json_code, 0);
  nlohmann::json report = nlohmann::json::parse(json);
  EXPECT_TRUE(report["passed"].get<bool>());
  EXPECT_EQ(report["checks"].size(), 2u);
  EXPECT_EQ(report["checks"][0]["verdict"], "passed");
}

// A weight that became infinite on the disk: the program says so with its exit code.
TEST(SelfcheckProgram, AFailedCheckIsExitCodeOne) {
  test::TempFolder dir;
  for (const auto& entry : std::filesystem::directory_iterator(kTiny))
    std::filesystem::copy(entry.path(), dir.file(entry.path().filename()));
  bool found = false;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    if (entry.path().extension() != ".safetensors") continue;
    SafetensorsFile file = SafetensorsFile::open(entry.path());
    const StoredTensor* norm = file.find("model.norm.weight");
    if (!norm) continue;
    found = true;
    std::fstream out(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(file.offset_of(*norm)));
    uint32_t infinity = norm->dtype == DType::bf16 ? 0x7F807F80u : 0x7F800000u;
    out.write(reinterpret_cast<const char*>(&infinity), sizeof(infinity));
  }
  ASSERT_TRUE(found);
  auto [code, text] = run_program("--ckpt-path " + dir.path() + " --only router,finite");
  EXPECT_EQ(code, 1) << text;
  EXPECT_NE(text.find("FAILED: 2 checks passed, 1 failed"), std::string::npos) << text;
}

// What other engines have done to the block of the bundled model, each with the line that tells.
class WrongMtpBlock {
 public:
  WrongMtpBlock()
      : checkpoint_(Checkpoint::load(kSmall)), tokenizer_(Tokenizer::from_folder(kSmall)) {
    options_.only = {"mtp"};
    options_.compute.threads = 1;
  }
  const Config& config() const { return checkpoint_->config(); }
  const Weights& right() const { return checkpoint_->weights(); }

  Ids failed_with(const Weights& weights) {
    return failed(run_selfcheck(config(), weights, &tokenizer_, options_));
  }
  // The part that runs the block as variants, on the beginning of the text, with a fault in the
  // forward pass if one is given.
  Ids guesses_failed_with(const Weights& weights, const OpsWrapper& fault = {}) {
    SelfcheckOptions options = options_;
    options.wrap = fault;
    CheckContext c{config(), weights, &tokenizer_, options};
    c.ids = tokenizer_.encode_plain(selfcheck_text());
    c.ids.resize(120);
    check_mtp_guesses(c);
    EXPECT_EQ(c.results.size(), 3u);
    return failed(c.results);
  }

 private:
  static inline const std::string kSmall = FATHOM_SOURCE_DIR "/models/small";
  std::unique_ptr<Checkpoint> checkpoint_;
  Tokenizer tokenizer_;
  SelfcheckOptions options_;
};

TEST(SelfcheckMtp, AWrongBlockIsCaught) {
  WrongMtpBlock block;
  const auto hidden = static_cast<size_t>(block.config().hidden);
  EXPECT_EQ(block.failed_with(block.right()), Ids{});

  Weights swapped = block.right();  // the state first, then the embedding
  const QWeight& right = block.right().mtp->combine;
  ASSERT_TRUE(right.is_fp8() && hidden % kFp8Block == 0);
  std::vector<uint8_t> codes(2 * hidden * hidden);
  const size_t blocks = hidden / kFp8Block;
  std::vector<float> scales(2 * blocks * blocks);
  for (size_t r = 0; r < hidden; ++r)
    for (size_t c = 0; c < 2 * hidden; ++c)
      codes[r * 2 * hidden + c] =
          right.row<uint8_t>(static_cast<int64_t>(r))[(c + hidden) % (2 * hidden)];
  for (size_t r = 0; r < blocks; ++r)
    for (size_t c = 0; c < 2 * blocks; ++c)
      scales[r * 2 * blocks + c] = right.scale[r * 2 * blocks + (c + blocks) % (2 * blocks)];
  swapped.mtp->combine.data = codes.data();
  swapped.mtp->combine.scale = scales.data();
  EXPECT_EQ(block.failed_with(swapped), (Ids{"mtp.acceptance", "mtp.norms", "mtp.variants"}));

  // No norm of the embedding: its values are as small as they are in the table.
  const std::vector<float> small(hidden, 0.02f);
  Weights bare = block.right();
  bare.mtp->embed_norm = small.data();
  EXPECT_EQ(block.failed_with(bare), (Ids{"mtp.acceptance", "mtp.variants"}));
}

// The formulas take the files' word for which norm is which, and the block drafts as well with the
// two exchanged. That gains fit the columns behind them tells.
TEST(SelfcheckMtp, ExchangedNormsInTheFilesAreCaught) {
  WrongMtpBlock block;
  Weights exchanged = block.right();
  std::swap(exchanged.mtp->embed_norm, exchanged.mtp->hidden_norm);
  EXPECT_EQ(block.failed_with(exchanged), Ids{"mtp.norms"});
}

// Blocks that guess nearly as well as the right one: their acceptance tells nothing.
TEST(SelfcheckMtp, AnAlmostRightBlockIsCaught) {
  WrongMtpBlock block;
  EXPECT_EQ(block.guesses_failed_with(block.right()), Ids{});
  const std::vector<float> ones(static_cast<size_t>(block.config().hidden), 1.0f);
  auto with = [&](auto change) {
    Weights w = block.right();
    change(*w.mtp);
    const Ids ids = block.guesses_failed_with(w);
    return ids.contains("mtp.variants") && !ids.contains("mtp.input");
  };
  EXPECT_TRUE(with([&](MtpWeights& m) { m.embed_norm = ones.data(); }));
  EXPECT_TRUE(with([&](MtpWeights& m) { m.hidden_norm = ones.data(); }));
  EXPECT_TRUE(with([&](MtpWeights& m) { m.head_norm = ones.data(); }));
  EXPECT_TRUE(with([&](MtpWeights& m) { m.head_norm = block.right().norm; }));
}

// Mistakes of the forward pass around the block's two first norms.
struct WrongMtpPass : TraceOps {
  enum Mistake : uint8_t {
    none,
    before_norm,
    normed_twice,
    no_embed_norm,
    no_hidden_norm,
    norms_exchanged
  };

  WrongMtpPass(Ops& inner, const Weights& weights, Mistake mistake)
      : TraceOps(inner), weights_(weights), mistake_(mistake) {}

  void rms_norm(Tensor out, Tensor x, const float* gain, float eps) override {
    const MtpWeights& m = *weights_.mtp;
    const bool state = gain == m.hidden_norm;
    if (mistake_ == norms_exchanged && (state || gain == m.embed_norm))
      gain = state ? m.embed_norm : m.hidden_norm;
    if (state && mistake_ == before_norm) x = before_.t;
    if (state && mistake_ == normed_twice) {
      twice_ = copy(x);
      TraceOps::rms_norm(twice_.t, x, weights_.norm, eps);
      x = twice_.t;
    }
    if ((state && mistake_ == no_hidden_norm) ||
        (gain == m.embed_norm && mistake_ == no_embed_norm)) {
      for (int64_t t = 0; t < x.rows(); ++t)
        for (int64_t i = 0; i < x.row_size(); ++i) out.row<Bf16>(t)[i] = x.row<Bf16>(t)[i];
      return;
    }
    TraceOps::rms_norm(out, x, gain, eps);
  }
  void add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                    float eps) override {
    TraceOps::add_rms_norm(normed, residual, update, gain, eps);
    if (gain == weights_.norm) before_ = copy(residual);
  }

 private:
  static OwnedTensor copy(Tensor x) {
    std::vector<int32_t> rows(static_cast<size_t>(x.rows()));
    std::iota(rows.begin(), rows.end(), 0);
    return copy_rows(x, rows);
  }
  const Weights& weights_;
  const Mistake mistake_;
  OwnedTensor before_, twice_;
};

TEST(SelfcheckMtp, AWrongPassThroughTheBlockIsCaught) {
  WrongMtpBlock block;
  for (const auto mistake :
       {WrongMtpPass::none, WrongMtpPass::before_norm, WrongMtpPass::normed_twice,
        WrongMtpPass::no_embed_norm, WrongMtpPass::no_hidden_norm, WrongMtpPass::norms_exchanged}) {
    SCOPED_TRACE(static_cast<int>(mistake));
    const Ids ids = block.guesses_failed_with(block.right(), [&](Ops& ops) {
      return std::make_unique<WrongMtpPass>(ops, block.right(), mistake);
    });
    EXPECT_EQ(ids.contains("mtp.input"), mistake != WrongMtpPass::none);
    // The bundled model's two gains are so alike that it guesses as well with them exchanged: only
    // the formulas tell.
    EXPECT_EQ(ids.contains("mtp.variants"),
              mistake != WrongMtpPass::none && mistake != WrongMtpPass::norms_exchanged);
    EXPECT_FALSE(mistake == WrongMtpPass::norms_exchanged && ids.contains("mtp.acceptance"));
  }
}

TEST(SelfcheckProgram, BadInputIsAnError) {
  EXPECT_EQ(run_program("--ckpt-path /no/such/folder").first, 1);
  EXPECT_EQ(run_program("--ckpt-path " + kTiny + " --only nonsense").first, 2);
  EXPECT_EQ(run_program("").first, 2);
}

}  // namespace
}  // namespace fathom
