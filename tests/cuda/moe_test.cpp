// Routing, permutation, gathers, activation and combine on the GPU. Whatever copies or chooses is
// due exactly; sums within float32 summation error and one bf16 rounding.
#include "kernels/cuda/moe/moe.h"

#include <numeric>

#include "support.h"

namespace fathom::cuda {
namespace {

using MoeTest = GpuTest;

constexpr RouterShape kV32 = {256, 8, 4, 8, 2.5f, true, true};
// Counts that are no powers of two, one group, groups that leave experts over, the greatest size.
constexpr RouterShape kShapes[] = {
    kV32,
    {8, 1, 1, 2, 1.0f, true, true},
    {12, 3, 2, 4, 2.5f, true, true},
    {1, 1, 1, 1, 1.0f, true, true},
    {33, 1, 1, 8, 1.5f, false, true},
    {97, 5, 3, 7, 1.0f, true, true},
    {32, 20, 9, 6, 1.0f, true, true},
    {160, 8, 3, 6, 16.0f, false, false},
    {256, 256, 40, 32, 1.0f, true, true},
    {1024, 32, 8, 8, 2.5f, true, true},
    {1000, 8, 4, 22, 2.5f, true, false},
};

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routed route_on_host(const RouterShape& s, std::vector<float> logits, const float* bias) {
  const size_t tokens = logits.size() / s.experts;
  Routed out{std::vector<int32_t>(tokens * s.per_token), std::vector<float>(tokens * s.per_token)};
  std::vector<float> scratch(s.experts);
  for (size_t t = 0; t < tokens; ++t)
    route_token(s, &logits[t * s.experts], bias, scratch.data(), &out.ids[t * s.per_token],
                &out.weights[t * s.per_token]);
  return out;
}

class RouteTest : public GpuTest {
 protected:
  Routed run(const RouterShape& s, const std::vector<float>& logits, const std::vector<float>* bias,
             int live = -1) {
    const int tokens = static_cast<int>(logits.size()) / s.experts;
    DeviceArray<float> in(logits), weights(static_cast<size_t>(tokens) * s.per_token);
    DeviceArray<float> device_bias(bias ? *bias : std::vector<float>(1));
    DeviceArray<int32_t> ids(static_cast<size_t>(tokens) * s.per_token);
    DeviceArray<int32_t> device_live(std::vector<int32_t>{live});
    RouteParams p;
    p.logits = in.data();
    p.bias = bias ? device_bias.data() : nullptr;
    p.tokens = tokens;
    p.live_tokens = live >= 0 ? device_live.data() : nullptr;
    p.shape = s;
    p.ids = ids.data();
    p.weights = weights.data();
    route(p, launch);
    synchronize();
    return {ids.download(), weights.download()};
  }
};

// Logits of five values and a bias of two: ties everywhere, and nothing else is close.
TEST_F(RouteTest, TiesGoToTheLowerId) {
  for (const RouterShape& s : kShapes) {
    std::mt19937 generator(3);
    std::vector<float> logits(static_cast<size_t>(s.experts) * 131), bias(s.experts);
    for (float& x : logits) x = static_cast<float>(generator() % 5) - 2.0f;
    for (float& x : bias) x = generator() % 3 == 0 ? 0.25f : -0.125f;
    for (const std::vector<float>* b : {static_cast<std::vector<float>*>(nullptr), &bias}) {
      Routed got = run(s, logits, b), want = route_on_host(s, logits, b ? b->data() : nullptr);
      EXPECT_EQ(got.ids, want.ids) << s.experts << " experts, " << s.groups << " groups";
      for (size_t i = 0; i < got.weights.size(); ++i)
        ASSERT_NEAR(got.weights[i], want.weights[i], 2e-6f * s.scale * s.per_token);
    }
  }
}

// Random logits: scores may differ from the host's in the last bit (expf), so ids may where the
// biased scores are that close.
TEST_F(RouteTest, RandomLogits) {
  for (const RouterShape& s : kShapes) {
    std::vector<float> logits = random_floats(static_cast<size_t>(s.experts) * 300, 5, 2.0f);
    std::vector<float> bias = random_floats(s.experts, 6, 0.1f);
    Routed got = run(s, logits, &bias), again = run(s, logits, &bias);
    Routed want = route_on_host(s, logits, bias.data());
    EXPECT_EQ(got.ids, again.ids);
    EXPECT_EQ(got.weights, again.weights);
    int different = 0;
    for (size_t i = 0; i < got.ids.size(); ++i) {
      if (got.ids[i] != want.ids[i]) {
        ++different;
        continue;
      }
      EXPECT_NEAR(got.weights[i], want.weights[i], 3e-6f * s.scale * (1 + want.weights[i]))
          << s.experts << " experts, slot " << i;
    }
    EXPECT_LE(different, 4) << s.experts << " experts";
  }
}

TEST_F(RouteTest, PaddingHasNoExpert) {
  std::vector<float> logits = random_floats(256 * 9, 7);
  Routed all = run(kV32, logits, nullptr), some = run(kV32, logits, nullptr, 5);
  for (int t = 0; t < 9; ++t)
    for (int k = 0; k < 8; ++k) {
      EXPECT_EQ(some.ids[t * 8 + k], t < 5 ? all.ids[t * 8 + k] : -1);
      EXPECT_EQ(some.weights[t * 8 + k], t < 5 ? all.weights[t * 8 + k] : 0.0f);
    }
}

TEST_F(RouteTest, NanIsChosenLast) {
  std::vector<float> logits = random_floats(256, 8);
  for (int e = 0; e < 250; ++e) logits[e] = NAN;
  Routed got = run(kV32, logits, nullptr), want = route_on_host(kV32, logits, nullptr);
  EXPECT_EQ(got.ids, want.ids);
}

struct Permuted {
  std::vector<int32_t> offsets, row_of, token_of;
};

// Experts from `first` on are placed.
Permuted permute_on_host(const std::vector<int32_t>& ids, int per_token, int experts,
                         int first = 0) {
  Permuted p{{0}, std::vector<int32_t>(ids.size(), -1), std::vector<int32_t>(ids.size(), -1)};
  int32_t row = 0;
  for (int e = 0; e < experts; ++e) {
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == first + e) {
        p.row_of[i] = row;
        p.token_of[row++] = static_cast<int32_t>(i) / per_token;
      }
    p.offsets.push_back(row);
  }
  return p;
}

// Distinct experts a token, one in eight tokens without any.
std::vector<int32_t> random_ids(int tokens, int per_token, int experts, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<int32_t> ids, all(experts);
  std::iota(all.begin(), all.end(), 0);
  for (int t = 0; t < tokens; ++t) {
    for (int k = 0; k < per_token; ++k)
      std::swap(all[k], all[k + generator() % static_cast<unsigned>(experts - k)]);
    for (int k = 0; k < per_token; ++k) ids.push_back(t % 8 == 5 ? -1 : all[k]);
  }
  return ids;
}

TEST_F(MoeTest, Permute) {
  struct Case {
    int per_token, experts, first = 0, own = experts;  // all, and those of this rank
  };
  for (Case c : {Case{8, 256}, Case{8, 12}, Case{1, 1}, Case{32, 1024}, Case{6, 97},
                 Case{8, 256, 64, 64}, Case{8, 12, 0, 4}, Case{6, 97, 90, 7}})
    for (int tokens : {0, 1, 2, 31, 63, 64, 65, 127, 128, 129, 513, 4096}) {
      std::vector<int32_t> ids = random_ids(tokens, c.per_token, c.experts, 11);
      Permuted want = permute_on_host(ids, c.per_token, c.own, c.first);
      give_workspace(permute_workspace(tokens, c.per_token, c.own));
      DeviceArray<int32_t> in(ids), offsets(c.own + 1), row_of(ids.size()), token_of(ids.size());
      for (int turn = 0; turn < 2; ++turn) {
        token_of.poison();
        PermuteParams p;
        p.ids = in.data();
        p.tokens = tokens;
        p.per_token = c.per_token;
        p.first = c.first;
        p.experts = c.own;
        p.offsets = offsets.data();
        p.row_of = row_of.data();
        p.token_of = token_of.data();
        permute(p, launch);
        synchronize();
        EXPECT_EQ(offsets.download(), want.offsets) << tokens << " tokens, " << c.experts;
        EXPECT_EQ(row_of.download(), want.row_of) << tokens << " tokens, " << c.experts;
        EXPECT_EQ(token_of.download(), want.token_of) << tokens << " tokens, " << c.experts;
      }
    }
}

TEST_F(MoeTest, RouteAndPermuteIsBoth) {
  for (const RouterShape& s : kShapes)
    for (auto [tokens, first] : {std::pair{1, 0},
                                 {3, 0},
                                 {32, 0},
                                 {64, 0},
                                 {65, 0},
                                 {200, 0},
                                 {1, s.experts / 3},
                                 {3, s.experts / 3},
                                 {200, s.experts / 3}}) {
      const int own = s.experts - first;
      std::vector<float> logits = random_floats(static_cast<size_t>(s.experts) * tokens, 13);
      const int live = tokens - tokens / 4;
      const size_t pairs = static_cast<size_t>(tokens) * s.per_token;
      give_workspace(permute_workspace(tokens, s.per_token, s.experts));
      DeviceArray<float> in(logits), weights(pairs), plain_weights(pairs);
      DeviceArray<int32_t> ids(pairs), plain_ids(pairs), row_of(pairs), token_of(pairs);
      DeviceArray<int32_t> offsets(own + 1), device_live(std::vector<int32_t>{live});
      RouteParams r;
      r.logits = in.data();
      r.tokens = tokens;
      r.live_tokens = device_live.data();
      r.shape = s;
      r.ids = plain_ids.data();
      r.weights = plain_weights.data();
      route(r, launch);
      r.ids = ids.data();
      r.weights = weights.data();
      PermuteParams p;
      p.ids = ids.data();
      p.tokens = tokens;
      p.per_token = s.per_token;
      p.first = first;
      p.experts = own;
      p.offsets = offsets.data();
      p.row_of = row_of.data();
      p.token_of = token_of.data();
      route_and_permute(r, p, launch);
      synchronize();
      std::vector<int32_t> chosen = ids.download();
      EXPECT_EQ(chosen, plain_ids.download());
      EXPECT_EQ(weights.download(), plain_weights.download());
      Permuted want = permute_on_host(chosen, s.per_token, own, first);
      EXPECT_EQ(offsets.download(), want.offsets) << tokens << " tokens, " << s.experts;
      EXPECT_EQ(row_of.download(), want.row_of);
      EXPECT_EQ(token_of.download(), want.token_of);
    }
}

TEST_F(MoeTest, Gathers) {
  struct Case {
    int tokens, k, live;
  };
  std::vector<Case> cases;
  for (int k : {128, 640, 7168})
    for (int live : {0, 1, 31, 33, 300}) cases.push_back({77, k, live});
  cases.push_back({2500, 640, 9000});  // enough tokens for a unit of all of a token's rows
  for (const auto& [tokens, k, live] : cases) {
    const int per_token = 4, max_rows = tokens * per_token, groups = k / 128;
    const int64_t stride = tokens + 3, out_stride = max_rows;
    std::vector<uint8_t> codes = random_codes(static_cast<size_t>(tokens) * k, 21);
    std::vector<float> scales = random_floats(static_cast<size_t>(groups * stride), 22);
    std::vector<Bf16> rows = random_bf16(static_cast<size_t>(tokens) * k, 23);
    std::vector<int32_t> token_of(max_rows, 1 << 30), row_of(max_rows, -1);
    for (int r = 0; r < live; ++r) {
      const int pair = (r * 29 + 3) % max_rows;
      row_of[pair] = r;
      token_of[r] = pair / per_token;
    }
    DeviceArray<uint8_t> in_codes(codes), out_codes(static_cast<size_t>(max_rows) * k);
    DeviceArray<float> in_scales(scales), out_scales(static_cast<size_t>(groups * out_stride));
    DeviceArray<Bf16> in_rows(rows), out_rows(static_cast<size_t>(max_rows) * k);
    DeviceArray<int32_t> order(token_of), places(row_of);
    DeviceArray<int32_t> live_rows(std::vector<int32_t>{live});
    GatherQuantisedParams q;
    q.codes = in_codes.data();
    q.scales = in_scales.data();
    q.scale_stride = stride;
    q.k = k;
    q.tokens = tokens;
    q.per_token = per_token;
    q.row_of = places.data();
    q.token_of = order.data();
    q.live_rows = live_rows.data();
    q.out_codes = out_codes.data();
    q.out_scales = out_scales.data();
    q.out_scale_stride = out_stride;
    gather_quantised(q, launch);
    GatherBf16Params b;
    b.rows = in_rows.data();
    b.n = k;
    b.tokens = tokens;
    b.per_token = per_token;
    b.row_of = places.data();
    b.out = out_rows.data();
    gather_bf16(b, launch);
    synchronize();
    std::vector<uint8_t> got_codes = out_codes.download();
    std::vector<float> got_scales = out_scales.download();
    std::vector<Bf16> got_rows = out_rows.download();
    int bad = 0;
    for (int r = 0; r < max_rows; ++r)
      for (int c = 0; c < k; ++c) {
        size_t from = r < live ? static_cast<size_t>(token_of[r]) * k + c : 0;
        bad += got_codes[static_cast<size_t>(r) * k + c] != (r < live ? codes[from] : 0xFF);
        bad +=
            got_rows[static_cast<size_t>(r) * k + c].bits != (r < live ? rows[from].bits : 0xFFFF);
      }
    for (int g = 0; g < groups; ++g)
      for (int r = 0; r < out_stride; ++r)
        bad += bits_of(got_scales[g * out_stride + r]) !=
               (r < live ? bits_of(scales[g * stride + token_of[r]]) : 0xFFFFFFFFu);
    EXPECT_EQ(bad, 0) << k << " wide, " << live << " rows";
  }
}

class ActivationTest : public GpuTest {
 protected:
  struct Result {
    std::vector<Bf16> act;
    std::vector<uint8_t> codes;
    std::vector<float> scales;
  };
  // Both forms of the activation over the same rows. `live` < 0: all.
  Result run(const std::vector<Bf16>& gate_up, int intermediate, int live, bool ue8m0) {
    const int rows = static_cast<int>(gate_up.size()) / (2 * intermediate);
    const int64_t stride = rows + 3;
    DeviceArray<Bf16> in(gate_up), act(gate_up.size() / 2);
    DeviceArray<uint8_t> codes(gate_up.size() / 2);
    DeviceArray<float> scales(static_cast<size_t>(intermediate / 128 * stride));
    DeviceArray<int32_t> live_rows(std::vector<int32_t>{live});
    SiluMulParams p;
    p.gate_up = in.data();
    p.intermediate = intermediate;
    p.max_rows = rows;
    p.live_rows = live < 0 ? nullptr : live_rows.data();
    p.out = act.data();
    silu_mul(p, launch);
    if (intermediate % 128 == 0) {
      p.out = nullptr;
      p.codes = codes.data();
      p.scales = scales.data();
      p.scale_stride = stride;
      p.ue8m0 = ue8m0;
      silu_mul(p, launch);
    }
    synchronize();
    return {act.download(), codes.download(), scales.download()};
  }
  // Codes and scales are the host's for the device's own activations.
  void expect_quantised(const Result& r, int intermediate, int live, bool ue8m0) {
    const int rows = static_cast<int>(r.act.size()) / intermediate;
    const int64_t stride = rows + 3;
    parallel(rows, [&](int64_t row) {
      for (int g = 0; g < intermediate / 128; ++g) {
        const size_t at = static_cast<size_t>(row) * intermediate + g * 128;
        if (row >= live) {
          EXPECT_EQ(r.codes[at], 0xFF);
          EXPECT_EQ(bits_of(r.scales[g * stride + row]), 0xFFFFFFFFu);
          continue;
        }
        float amax = 0;
        for (int i = 0; i < 128; ++i) amax = std::fmax(amax, std::fabs(to_float(r.act[at + i])));
        const float scale = group_scale(amax, ue8m0);
        EXPECT_EQ(bits_of(r.scales[g * stride + row]), bits_of(scale)) << row << " " << g;
        for (int i = 0; i < 128; ++i) {
          uint8_t want = quantise(to_float(r.act[at + i]), scale);
          if (r.codes[at + i] != want) {
            ADD_FAILURE() << "row " << row << " value " << to_float(r.act[at + i]) << " scale "
                          << scale << ": code " << int{r.codes[at + i]} << ", not " << int{want};
            return;
          }
        }
      }
    });
  }
};

TEST_F(ActivationTest, SiluTimesUp) {
  for (int intermediate : {8, 128, 384, 2048})
    for (int rows : {1, 3, 65, 257}) {
      const int live = rows > 2 ? rows - 2 : rows;
      std::vector<Bf16> x =
          random_bf16(static_cast<size_t>(rows) * 2 * intermediate, 31 + rows, 3.0f);
      for (bool ue8m0 : {true, false}) {
        Result got = run(x, intermediate, live, ue8m0);
        for (int r = 0; r < rows; ++r)
          for (int c = 0; c < intermediate; ++c) {
            Bf16 have = got.act[static_cast<size_t>(r) * intermediate + c];
            if (r >= live) {
              ASSERT_EQ(have.bits, 0xFFFF) << "a dead row is written";
              continue;
            }
            double a = to_float(x[static_cast<size_t>(r) * 2 * intermediate + c]);
            double b = to_float(x[(static_cast<size_t>(r) * 2 + 1) * intermediate + c]);
            double exact = a / (1 + std::exp(-a)) * b;
            ASSERT_LE(std::abs(to_float(have) - exact), bf16_bound(exact, std::abs(exact), 1));
          }
        if (intermediate % 128 == 0) expect_quantised(got, intermediate, live, ue8m0);
      }
    }
}

// Conversions by the hardware are the rule's: silu(64) is 64, so up passes as it is, times 64.
TEST_F(ActivationTest, EveryBf16ValueIsQuantisedByTheRule) {
  const int intermediate = 2048;
  std::vector<Bf16> ups;
  auto pad_group = [&](float top) {
    while (ups.size() % 128 != 0) ups.push_back(to_bf16(top));
  };
  // Every bf16 up to 448 with scale 1, and every one that comes within 2^-24 of a larger top.
  for (float top : {448.0f, 1.0f, 3e-4f, 1e30f, 431.0f})
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      float v = float_of(bits << 16);
      if (!(std::fabs(v) <= top)) continue;
      if (ups.size() % 128 == 0) ups.push_back(to_bf16(top / 64));
      ups.push_back(to_bf16(v / 64));
      if (bits == 65535) pad_group(top / 64);
    }
  pad_group(1.0f);
  // Any top with any value below it.
  std::mt19937 generator(41);
  for (int i = 0; i < 40000; ++i) {
    float top = std::exp2(static_cast<float>(generator() % 150) - 40.0f) *
                (1 + static_cast<float>(generator() % 128) / 128);
    for (int j = 0; j < 128; ++j) {
      float v = j == 0 ? 1.0f : static_cast<float>(generator() % 65536) / 65536 - 0.5f;
      ups.push_back(
          to_bf16(v * std::exp2(-static_cast<float>(j > 64 ? generator() % 16 : 0)) * top));
    }
  }
  while (ups.size() % intermediate != 0) ups.push_back(to_bf16(0.0f));
  const int rows = static_cast<int>(ups.size()) / intermediate;
  std::vector<Bf16> x(ups.size() * 2);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < intermediate; ++c) {
      x[static_cast<size_t>(r) * 2 * intermediate + c] = to_bf16(64.0f);
      x[(static_cast<size_t>(r) * 2 + 1) * intermediate + c] =
          ups[static_cast<size_t>(r) * intermediate + c];
    }
  for (bool ue8m0 : {true, false}) {
    Result got = run(x, intermediate, -1, ue8m0);
    for (size_t i = 0; i < ups.size(); ++i)
      ASSERT_EQ(to_float(got.act[i]), to_float(ups[i]) * 64) << "element " << i;
    expect_quantised(got, intermediate, rows, ue8m0);
  }
}

// Bit for bit what the sum and the norm are one after the other.
TEST_F(MoeTest, CombineAndNormIsBoth) {
  struct Case {
    int tokens, per_token, experts, n;
    bool shared;
  };
  for (Case c :
       {Case{1, 8, 256, 7168, true}, Case{65, 8, 256, 7168, true}, Case{300, 8, 256, 7168, true},
        Case{33, 1, 4, 128, false}, Case{17, 32, 64, 1024, true}, Case{600, 6, 12, 512, false},
        Case{150, 8, 64, 16384, true}}) {
    std::vector<int32_t> ids = random_ids(c.tokens, c.per_token, c.experts, 61);
    Permuted order = permute_on_host(ids, c.per_token, c.experts);
    const size_t live = static_cast<size_t>(order.offsets.back()), n = static_cast<size_t>(c.n);
    const size_t all = static_cast<size_t>(c.tokens) * n;
    DeviceArray<Bf16> rows(random_bf16(std::max<size_t>(1, live) * n, 62));
    DeviceArray<Bf16> common(random_bf16(all, 63)), sum(all);
    DeviceArray<float> weights(random_floats(ids.size(), 64)), gain(random_floats(n, 65));
    DeviceArray<int32_t> row_of(order.row_of);
    const int64_t stride = (c.tokens + 3) / 4 * 4;
    CombineParams p;
    p.rows = rows.data();
    p.row_of = row_of.data();
    p.weights = weights.data();
    p.shared = c.shared ? common.data() : nullptr;
    p.tokens = c.tokens;
    p.per_token = c.per_token;
    p.n = c.n;
    p.out = sum.data();
    auto normed = [&](bool both) {
      DeviceArray<Bf16> residual(random_bf16(all, 66)), out(all);
      DeviceArray<uint8_t> codes(all);
      DeviceArray<float> scales(n / 128 * static_cast<size_t>(stride));
      RmsNormParams norm;
      norm.x = sum.data();
      norm.residual = residual.data();
      norm.out = out.data();
      norm.gain = gain.data();
      norm.codes = {codes.data(), scales.data(), stride, true};
      norm.rows = c.tokens;
      norm.n = c.n;
      norm.x_stride = norm.residual_stride = norm.out_stride = c.n;
      norm.eps = 1e-6f;
      if (both) {
        combine_rms_norm(p, norm, launch);
      } else {
        combine(p, launch);
        rms_norm(norm, launch);
      }
      synchronize();
      std::vector<uint32_t> bits;
      for (Bf16 v : residual.download()) bits.push_back(v.bits);
      for (Bf16 v : out.download()) bits.push_back(v.bits);
      for (uint8_t v : codes.download()) bits.push_back(v);
      for (float v : scales.download()) bits.push_back(bits_of(v));
      return bits;
    };
    EXPECT_TRUE(normed(true) == normed(false)) << c.tokens << " rows of " << c.n;
  }
}

TEST_F(MoeTest, Combine) {
  struct Case {
    int tokens, per_token, experts, n;
  };
  for (Case c : {Case{1, 8, 256, 7168}, Case{65, 8, 256, 7168}, Case{33, 1, 4, 8},
                 Case{17, 32, 64, 1032}, Case{600, 6, 12, 512}})
    for (bool shared : {true, false}) {
      std::vector<int32_t> ids = random_ids(c.tokens, c.per_token, c.experts, 51);
      Permuted order = permute_on_host(ids, c.per_token, c.experts);
      const size_t live = static_cast<size_t>(order.offsets.back());
      std::vector<Bf16> rows = random_bf16(std::max<size_t>(1, live) * c.n, 52);
      std::vector<Bf16> common = random_bf16(static_cast<size_t>(c.tokens) * c.n, 53);
      std::vector<float> weights = random_floats(ids.size(), 54);
      DeviceArray<Bf16> in(rows), device_common(common);
      DeviceArray<Bf16> out(static_cast<size_t>(c.tokens) * c.n + 8);
      DeviceArray<float> device_weights(weights);
      DeviceArray<int32_t> row_of(order.row_of);
      CombineParams p;
      p.rows = in.data();
      p.row_of = row_of.data();
      p.weights = device_weights.data();
      p.shared = shared ? device_common.data() : nullptr;
      p.tokens = c.tokens;
      p.per_token = c.per_token;
      p.n = c.n;
      p.out = out.data();
      combine(p, launch);
      synchronize();
      std::vector<Bf16> got = out.download();
      for (size_t i = got.size() - 8; i < got.size(); ++i) EXPECT_EQ(got[i].bits, 0xFFFF);
      parallel(c.tokens, [&](int64_t t) {
        for (int column = 0; column < c.n; ++column) {
          double sum = shared ? to_float(common[t * c.n + column]) : 0, magnitude = std::abs(sum);
          for (int k = 0; k < c.per_token; ++k) {
            int32_t row = order.row_of[t * c.per_token + k];
            if (row < 0) continue;
            double product = static_cast<double>(weights[t * c.per_token + k]) *
                             to_float(rows[static_cast<size_t>(row) * c.n + column]);
            sum += product;
            magnitude += std::abs(product);
          }
          double error = std::abs(to_float(got[t * c.n + column]) - sum);
          if (!(error <= bf16_bound(sum, magnitude, c.per_token + 1))) {
            ADD_FAILURE() << "token " << t << " column " << column << " of " << c.n << ": off by "
                          << error << " of " << sum;
            return;
          }
        }
      });
    }
}

}  // namespace
}  // namespace fathom::cuda
