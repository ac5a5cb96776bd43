// Both attention forms against float64 loops with bounds derived from the rounding points, and
// bit-equality where a result must not depend on its surroundings.
#include "kernels/attention_fixture.h"
#include "kernels/cpu/words.h"

namespace fathom {
namespace {

constexpr float kScale = 0.07f;
constexpr double kHalfUlpBf16 = 0x1p-8, kEpsF32 = 0x1p-24;

// Exact attention of one (token, head), and what the rounding points may change.
struct Truth {
  std::vector<double> out, bound;
};

struct Inputs {
  Memory q;
  Weight kv_b;
  KvUpWeights up;

  Inputs(const Scene& s, DType weight_dtype, Random& random, bool ue8m0 = true)
      : q(activation_dtype(s.numerics), {s.batch.tokens, s.w.heads, K::kNope + K::kRope}),
        kv_b(weight_dtype, s.w.heads * (K::kNope + K::kValue), K::kLatent, random, ue8m0) {
    random.fill(q, 0.7f);
    up = {kv_b.view, s.w.heads, K::kNope, K::kValue, K::kLatent};
  }
};

class Judge {
 public:
  Judge(const Scene& s, const Inputs& in) : s_(s), in_(in) {
    const bool exact = s.numerics == Numerics::exact;
    // One rounding of an operand or result; weights that are not exact in bf16 add another.
    unit_ = exact ? 0 : kHalfUlpBf16;
    weight_unit_ = exact || in.up.kv_b.dtype == DType::bf16 || in.up.kv_b.pow2_scale ? 0 : unit_;
    size_t n = static_cast<size_t>(in.kv_b.view.rows * K::kLatent);
    for (size_t i = 0; i < n; ++i)
      weight_.push_back(
          in.kv_b.at(static_cast<int64_t>(i) / K::kLatent, static_cast<int64_t>(i) % K::kLatent));
  }

  Truth operator()(int t, int head, const std::vector<int32_t>& seen) const {
    const int64_t width = K::kNope + K::kValue;
    const double* wk = &weight_[static_cast<size_t>(head * width * K::kLatent)];
    const double* wv = wk + K::kNope * K::kLatent;
    const int64_t at = int64_t{head} * (K::kNope + K::kRope);
    std::vector<double> qa(K::kLatent), qa_abs(K::kLatent);
    for (int j = 0; j < K::kNope; ++j)
      for (int c = 0; c < K::kLatent; ++c) {
        double p = in_.q.at(t, at + j) * wk[j * K::kLatent + c];
        qa[static_cast<size_t>(c)] += p;
        qa_abs[static_cast<size_t>(c)] += std::fabs(p);
      }
    std::vector<double> score, score_error, o(K::kLatent), o_abs(K::kLatent);
    std::vector<std::vector<float>> rows;
    for (int32_t p : seen) {
      std::vector<float> lat(K::kLatent + K::kRope);
      read_latent_row(s_.kv, s_.batch.cache_row(t, p), lat.data());
      double dot = 0, size = 0;
      for (size_t c = 0; c < K::kLatent; ++c) {
        dot += qa[c] * lat[c];
        size += qa_abs[c] * std::fabs(lat[c]);
      }
      for (int j = 0; j < K::kRope; ++j) {
        double x = in_.q.at(t, at + K::kNope + j) * lat[static_cast<size_t>(K::kLatent + j)];
        dot += x;
        size += std::fabs(x);
      }
      score.push_back(dot * kScale);
      // The products of query, weight and latent row are summed in two stages, rounded in between.
      score_error.push_back(size * kScale * (unit_ + weight_unit_ + 700 * kEpsF32));
      rows.push_back(lat);
    }
    double top = *std::max_element(score.begin(), score.end()), sum = 0, worst = 0;
    for (double& x : score) sum += (x = std::exp(x - top));
    for (double e : score_error) worst = std::max(worst, e);
    for (size_t i = 0; i < seen.size(); ++i)
      for (size_t c = 0; c < K::kLatent; ++c) {
        o[c] += score[i] / sum * rows[i][c];
        o_abs[c] += score[i] / sum * std::fabs(rows[i][c]);
      }
    Truth truth;
    for (int v = 0; v < K::kValue; ++v) {
      double value = 0, size = 0;
      for (size_t c = 0; c < K::kLatent; ++c) {
        value += o[c] * wv[static_cast<size_t>(v) * K::kLatent + c];
        size += o_abs[c] * std::fabs(wv[static_cast<size_t>(v) * K::kLatent + c]);
      }
      truth.out.push_back(value);
      // Weights move by at most twice the worst score error; rounded: weights, the value (or latent
      // output), and the result. exp2 and the float32 sums: some units each.
      double relative = 2 * worst + 2 * unit_ + weight_unit_ + (1200 + seen.size()) * kEpsF32;
      truth.bound.push_back(size * relative * 1.05 + std::fabs(value) * unit_ + 1e-30);
    }
    return truth;
  }

 private:
  const Scene& s_;
  const Inputs& in_;
  std::vector<double> weight_;
  double unit_, weight_unit_;
};

std::vector<int32_t> seen_by(const Scene& s, const Memory* picked, int t) {
  std::vector<int32_t> seen;
  if (picked) {
    const int32_t* row = picked->tensor.row<int32_t>(t);
    for (int64_t i = 0; i < picked->tensor.row_size() && row[i] >= 0; ++i) seen.push_back(row[i]);
  } else {
    seen.resize(static_cast<size_t>(s.positions[static_cast<size_t>(t)]) + 1);
    std::iota(seen.begin(), seen.end(), 0);
  }
  return seen;
}

void attend(Ops& ops, const Scene& s, const Inputs& in, const Memory* picked,
            const BatchView& batch, Memory& out) {
  Tensor picks = picked ? picked->tensor : Tensor();
  ops.attend_expanded(out.tensor, in.q.tensor, in.up, picks, s.kv, batch, kScale);
  ops.attend_absorbed(out.tensor, in.q.tensor, in.up, picks, s.kv, batch, kScale);
}

Memory attend(Ops& ops, const Scene& s, const Inputs& in, const Memory* picked) {
  Memory out(activation_dtype(s.numerics), {s.batch.tokens, s.w.heads * K::kValue});
  attend(ops, s, in, picked, s.batch, out);
  return out;
}

void expect_close(const Scene& s, const Inputs& in, const Memory* picked, const Memory& out,
                  const std::string& what, int every) {
  Judge judge(s, in);
  double worst = 0;
  for (int t = 0; t < s.batch.tokens; ++t) {
    if (t % every != 0 && t != s.batch.tokens - 1) continue;
    for (int h = 0; h < s.w.heads; ++h) {
      Truth truth = judge(t, h, seen_by(s, picked, t));
      for (int v = 0; v < K::kValue; ++v) {
        double error = std::fabs(out.at(t, h * K::kValue + v) - truth.out[static_cast<size_t>(v)]);
        // Written so that a NaN fails.
        ASSERT_TRUE(error <= truth.bound[static_cast<size_t>(v)])
            << what << " token " << t << " head " << h << " value " << v << " error " << error
            << " bound " << truth.bound[static_cast<size_t>(v)];
        worst = std::max(worst, error / truth.bound[static_cast<size_t>(v)]);
      }
    }
  }
  EXPECT_GT(worst, 0.0) << what;  // a bound that compares nothing would pass silently
}

const AttentionForm kForms[] = {AttentionForm::expanded, AttentionForm::absorbed};

struct Format {
  Numerics numerics;
  KvFormat kv;
  DType weight;
};
const Format kFormats[] = {
    {Numerics::exact, KvFormat::f32, DType::fp8_e4m3},
    {Numerics::exact, KvFormat::bf16, DType::f32},
    {Numerics::exact, KvFormat::fp8, DType::bf16},
    {Numerics::bf16, KvFormat::bf16, DType::fp8_e4m3},
    {Numerics::bf16, KvFormat::f32, DType::bf16},
    {Numerics::bf16, KvFormat::fp8, DType::f16},
    {Numerics::fp8, KvFormat::fp8, DType::fp8_e4m3},
    {Numerics::fp8, KvFormat::bf16, DType::f32},
};

TEST(Attention, MatchesFloat64InEveryFormat) {
  ThreadPool pool(2);
  for (const OpsChoice& choice : fast_choices())
    for (const Format& f : kFormats)
      for (AttentionForm form : kForms) {
        Random random(7);
        Scene s(f.numerics, f.kv, {{0, 70, form}, {130, 3, form}, {63, 1, form}}, 3, 1, 40);
        s.fill_cache(random);
        Inputs in(s, f.weight, random);
        Memory picked = random_picks(s, 40, random);
        std::string what = fmt::format("{} {} kv {} form {}", choice.name, name_of(f.numerics),
                                       static_cast<int>(f.kv), static_cast<int>(form));
        auto ops = make(choice, f.numerics, s.w, pool);
        expect_close(s, in, &picked, attend(*ops, s, in, &picked), what + " picked", 33);
        expect_close(s, in, nullptr, attend(*ops, s, in, nullptr), what + " dense", 33);
      }
}

// Scales that are no powers of two, and a slice of a matrix whose blocks start in the middle.
TEST(Attention, TakesAnyBlockScale) {
  ThreadPool pool(1);
  for (AttentionForm form : kForms) {
    Random random(3);
    Scene s(Numerics::exact, KvFormat::f32, {{20, 5, form}}, 2, 1, 8);
    s.fill_cache(random);
    Inputs in(s, DType::fp8_e4m3, random, false);
    Weight whole(DType::fp8_e4m3, 64 + 2 * 256, K::kLatent, random, false);
    in.kv_b.bytes.assign(whole.bytes.begin() + 64 * K::kLatent, whole.bytes.end());
    in.kv_b.view = whole.view.slice_rows(64, 64 + 2 * 256);
    in.up.kv_b = in.kv_b.view;
    for (const OpsChoice& choice : fast_choices())
      expect_close(s, in, nullptr, attend(*make(choice, s.numerics, s.w, pool), s, in, nullptr),
                   choice.name, 1);
  }
}

// 1 token, top-k and one more, a page and one more; the cache beyond the last token is NaN.
TEST(Attention, HostileLengths) {
  ThreadPool pool(2);
  for (const OpsChoice& choice : fast_choices())
    for (AttentionForm form : kForms)
      for (int length : {1, 32, 33, 64, 65, 129}) {
        Random random(static_cast<uint32_t>(length));
        Scene s(Numerics::bf16, KvFormat::bf16, {{0, length, form}}, 2, 1, 32);
        s.fill_cache(random);
        Inputs in(s, DType::fp8_e4m3, random);
        Memory picked = random_picks(s, 32, random);
        auto ops = make(choice, s.numerics, s.w, pool);
        expect_close(s, in, &picked, attend(*ops, s, in, &picked),
                     fmt::format("{} length {}", choice.name, length), 64);
      }
}

TEST(Attention, ManyHeadsAndLongSpans) {
  ThreadPool pool(2);
  for (AttentionForm form : kForms) {
    Random random(5);
    // More heads than a group of the expanded form or a block of the absorbed one holds.
    Scene s(Numerics::bf16, KvFormat::bf16, {{100, 1, form}}, 133, 1, 64);
    s.fill_cache(random);
    Inputs in(s, DType::bf16, random);
    auto ops = make(fast_choices().front(), s.numerics, s.w, pool);
    expect_close(s, in, nullptr, attend(*ops, s, in, nullptr), "many heads", 1);
  }
  // Keys of more tiles than are expanded at a time.
  Random random(6);
  Scene s(Numerics::exact, KvFormat::bf16, {{2070, 1, AttentionForm::expanded}}, 1, 1, 64);
  s.fill_cache(random);
  Inputs in(s, DType::bf16, random);
  auto ops = make(fast_choices().front(), s.numerics, s.w, pool);
  Memory picked = random_picks(s, 64, random);
  expect_close(s, in, nullptr, attend(*ops, s, in, nullptr), "long dense", 1);
  expect_close(s, in, &picked, attend(*ops, s, in, &picked), "long picked", 1);
}

TEST(Attention, NothingPickedIsZero) {
  ThreadPool pool(1);
  for (const OpsChoice& choice : fast_choices())
    for (AttentionForm form : kForms) {
      Random random(2);
      Scene s(Numerics::bf16, KvFormat::bf16, {{70, 3, form}}, 2, 1, 16);
      s.fill_cache(random);
      Inputs in(s, DType::bf16, random);
      Memory picked = random_picks(s, 16, random);
      std::fill_n(picked.tensor.row<int32_t>(1), 16, -1);
      Memory out = attend(*make(choice, s.numerics, s.w, pool), s, in, &picked);
      for (int i = 0; i < 2 * K::kValue; ++i) {
        ASSERT_EQ(out.at(1, i), 0.0f);
        ASSERT_FALSE(std::isnan(out.at(0, i)) || std::isnan(out.at(2, i)));
      }
    }
}

// One result whatever the number of threads, the cut into chunks and the company in the batch.
TEST(Attention, BitEqualForThreadsChunksAndBatches) {
  for (const OpsChoice& choice : fast_choices())
    for (Numerics numerics : {Numerics::exact, Numerics::bf16})
      for (AttentionForm form : kForms) {
        Random random(11);
        Scene s(numerics, numerics == Numerics::exact ? KvFormat::f32 : KvFormat::bf16,
                {{0, 100, form}, {140, 1, form}, {77, 30, form}}, 5, 1, 48);
        s.fill_cache(random);
        Inputs in(s, DType::fp8_e4m3, random);
        Memory picked = random_picks(s, 48, random);
        ThreadPool one(1);
        Memory want = attend(*make(choice, numerics, s.w, one), s, in, &picked);
        for (int threads : {2, 3}) {
          ThreadPool pool(threads);
          Memory got = attend(*make(choice, numerics, s.w, pool), s, in, &picked);
          ASSERT_EQ(want.bytes, got.bytes) << choice.name << " threads " << threads;
        }
        ThreadPool pool(2);
        auto ops = make(choice, numerics, s.w, pool);
        for (int chunk : {1, 3, 4, 7, 64, 100}) {                       // up to 4 multiply codes
          if (chunk == 1 && form == AttentionForm::expanded) continue;  // slow, and 7 shows it
          Memory got(want.tensor.dtype, {s.batch.tokens, s.w.heads * K::kValue});
          for (AttentionSpan span : s.spans)
            for (int b = span.begin; b < span.end; b += chunk) {
              AttentionSpan piece{b, std::min(span.end, b + chunk), span.sequence, form};
              attend(*ops, s, in, &picked, s.part_of(piece), got);
            }
          ASSERT_EQ(want.bytes, got.bytes) << choice.name << " chunk " << chunk;
        }
      }
}

// Few rows are multiplied with codes as words, where a matrix has them, and queries that are too
// large for that with codes as halves.
TEST(Attention, WordsChangeNothing) {
  ThreadPool pool(2);
  for (const OpsChoice& choice : fast_choices())
    for (Numerics numerics : {Numerics::exact, Numerics::bf16})
      for (int tokens : {1, 2, 5}) {
        Random random(17);
        Scene s(numerics, numerics == Numerics::exact ? KvFormat::f32 : KvFormat::bf16,
                {{90, tokens, AttentionForm::absorbed}}, 3, 1, 48);
        s.fill_cache(random);
        Inputs in(s, DType::fp8_e4m3, random);
        Memory picked = random_picks(s, 48, random);
        auto ops = make(choice, numerics, s.w, pool);
        std::vector<std::byte> memory(static_cast<size_t>(words_bytes(in.kv_b.view)));
        QWeight with_words = in.kv_b.view;
        ASSERT_TRUE(add_words(with_words, memory.data(), true));
        for (float factor : {1.0f, 0x1p18f}) {
          for (int t = 0; t < tokens; ++t)
            for (int64_t i = 0; i < in.q.tensor.row_size(); ++i)
              in.q.set(t, i, in.q.at(t, i) * factor);
          in.up.kv_b = in.kv_b.view;
          const Memory want = attend(*ops, s, in, &picked);
          in.up.kv_b = with_words;
          ASSERT_EQ(want.bytes, attend(*ops, s, in, &picked).bytes)
              << choice.name << ' ' << name_of(numerics) << ' ' << tokens << " times " << factor;
        }
      }
}

// A batch may mix forms: each op writes its own rows and no others.
TEST(Attention, MixedFormsEachTakeTheirSpans) {
  ThreadPool pool(2);
  Random random(13);
  Scene s(Numerics::bf16, KvFormat::bf16,
          {{40, 1, AttentionForm::absorbed},
           {0, 20, AttentionForm::expanded},
           {90, 2, AttentionForm::absorbed}},
          2, 1, 32);
  s.fill_cache(random);
  Inputs in(s, DType::fp8_e4m3, random);
  auto ops = make(fast_choices().front(), s.numerics, s.w, pool);
  Memory out(DType::bf16, {s.batch.tokens, 2 * K::kValue});
  std::vector<std::byte> untouched = out.bytes;
  ops->attend_absorbed(out.tensor, in.q.tensor, in.up, Tensor(), s.kv, s.batch, kScale);
  const size_t row = 2 * K::kValue * sizeof(Bf16);
  EXPECT_EQ(0, std::memcmp(&out.bytes[row], &untouched[row], 20 * row));
  ops->attend_expanded(out.tensor, in.q.tensor, in.up, Tensor(), s.kv, s.batch, kScale);
  expect_close(s, in, nullptr, out, "mixed", 1);
}

// Dims the kernels are not built for go to the reference, bit for bit.
TEST(Attention, OtherDimsFallBackToTheReference) {
  ThreadPool pool(2);
  Random random(17);
  Scene s(Numerics::bf16, KvFormat::bf16, {{0, 9, AttentionForm::absorbed}}, 2, 1, 4);
  s.w.latent = s.kv.latent_dim = 96;
  s.w.nope = 40;
  s.w.value = 24;
  s.kv.latent_stride = latent_row_bytes(KvFormat::bf16, 96, K::kRope);
  std::vector<float> x(96 + K::kRope);
  for (int p = 0; p < 9; ++p) {
    for (float& v : x) v = random.normal();
    write_latent_row(s.kv, s.batch.cache_row(0, p), x.data());
  }
  Weight kv_b(DType::fp8_e4m3, 2 * 64, 96, random);
  Memory q(DType::bf16, {9, 2, 40 + K::kRope});
  random.fill(q, 1.0f);
  KvUpWeights up{kv_b.view, 2, 40, 24, 96};
  Memory want(DType::bf16, {9, 48}), got(DType::bf16, {9, 48});
  ReferenceOps(s.numerics, s.w, pool)
      .attend_absorbed(want.tensor, q.tensor, up, Tensor(), s.kv, s.batch, kScale);
  for (const OpsChoice& choice : fast_choices()) {
    make(choice, s.numerics, s.w, pool)
        ->attend_absorbed(got.tensor, q.tensor, up, Tensor(), s.kv, s.batch, kScale);
    EXPECT_EQ(want.bytes, got.bytes);
  }
}

}  // namespace
}  // namespace fathom
