// MLPs, mixtures and routing of the fast implementations.
#include <algorithm>
#include <numeric>

#include "kernels/linear_cases.h"

namespace fathom::test {
namespace {

struct RandomMlp {
  RandomMlp(int64_t hidden, int64_t inter, DType type, uint32_t seed, bool odd = false)
      : gate(inter, hidden, type, seed, odd),
        up(inter, hidden, type, seed + 1, odd),
        down(hidden, inter, type, seed + 2, odd) {}
  MlpWeights weights() const { return {gate.weight, up.weight, down.weight}; }
  RandomWeight gate, up, down;
};

// Inputs as small as a norm leaves them: the gates then cover all of silu.
Matrix small_inputs(Numerics n, int64_t tokens, int64_t hidden, uint32_t seed) {
  Matrix x = Matrix::random(activation_type(n), tokens, hidden, seed);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < hidden; ++i) store(x.tensor, t, i, x.at(t, i) * 0.02f);
  return x;
}

// The mean square of the difference, relative to that of the expected values.
double distance(const Matrix& a, const Matrix& b) {
  double difference = 0, size = 0;
  for (int64_t t = 0; t < a.tensor.rows(); ++t)
    for (int64_t i = 0; i < a.tensor.row_size(); ++i) {
      difference += std::pow(a.at(t, i) - b.at(t, i), 2.0);
      size += std::pow(b.at(t, i), 2.0);
    }
  return std::sqrt(difference / size);
}

// A rounding that falls the other way in an intermediate moves a result by about one unit of the
// activation type; in fp8 numerics by one of e4m3, for few of the values.
double tolerance(Numerics n, bool odd_scales = false) {
  if (n == Numerics::exact) return 1e-6;
  // bf16 numerics round dequantised weights to bf16, the reference does not: with scales that are
  // no powers of two that is an error of up to 2^-9 in each weight of both layers.
  if (n == Numerics::bf16) return odd_scales ? 8e-3 : 2e-3;
  return 4e-3;
}

TEST(LinearMlp, AgreesWithTheReference) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics)
      for (DType type : {DType::fp8_e4m3, DType::bf16, DType::f32})
        for (int64_t inter : {128, 200})
          for (int tokens : {1, 7}) {
            ThreadPool pool(2);
            std::unique_ptr<Ops> fast = k->make(n, small_workload(), pool);
            std::unique_ptr<Ops> slow = make_reference_ops(n, small_workload(), pool);
            RandomMlp mlp(384, inter, type, 5);
            Matrix x = small_inputs(n, tokens, 384, 6);
            Matrix a(activation_type(n), tokens, 384), b(activation_type(n), tokens, 384);
            fast->mlp(a.tensor, x.tensor, mlp.weights());
            slow->mlp(b.tensor, x.tensor, mlp.weights());
            EXPECT_LT(distance(a, b), tolerance(n))
                << k->name << " " << name_of(n) << " " << name_of(type) << " " << inter << " T "
                << tokens;
          }
}

struct Mixture {
  Mixture(int experts, int64_t hidden, int64_t inter, int64_t shared_inter, DType type, bool odd) {
    for (int e = 0; e < experts; ++e) {
      owned.emplace_back(hidden, inter, type, 100 + 3 * e, odd);
      experts_.push_back(owned.back().weights());
    }
    shared_owned = std::make_unique<RandomMlp>(hidden, shared_inter, type, 50, odd);
    shared = shared_owned->weights();
  }
  std::vector<RandomMlp> owned;
  std::unique_ptr<RandomMlp> shared_owned;
  std::vector<MlpWeights> experts_;
  MlpWeights shared;
};

struct Routed {
  Routed(int64_t tokens, int64_t k) : ids(DType::i32, tokens, k), weights(DType::f32, tokens, k) {}
  Matrix ids, weights;
  void set(int64_t t, int64_t j, int32_t expert, float weight) {
    ids.tensor.row<int32_t>(t)[j] = expert;
    weights.tensor.row<float>(t)[j] = weight;
  }
};

// Each token's experts in random order, from the first `pool` of them only.
Routed random_routing(int64_t tokens, int64_t k, int pool, uint32_t seed) {
  Routed r(tokens, k);
  std::mt19937 rng(seed);
  std::vector<int32_t> all(static_cast<size_t>(pool));
  for (int64_t t = 0; t < tokens; ++t) {
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), rng);
    for (int64_t j = 0; j < k; ++j)
      r.set(t, j, all[j], 0.1f + static_cast<float>(rng() % 1000) / 500.0f);
  }
  return r;
}

TEST(LinearMoe, AgreesWithTheReference) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics)
      for (bool odd : {false, true}) {
        Mixture m(12, 128, 96, 192, DType::fp8_e4m3, odd);  // 12: no power of two
        ThreadPool pool(2);
        std::unique_ptr<Ops> fast = k->make(n, small_workload(), pool);
        std::unique_ptr<Ops> slow = make_reference_ops(n, small_workload(), pool);
        for (int tokens : {1, 5, 33})
          for (int used : {12, 3}) {  // 3: most experts have no token
            Routed r = random_routing(tokens, 3, used, 9);
            Matrix x = small_inputs(n, tokens, 128, 10);
            Matrix a(activation_type(n), tokens, 128), b(activation_type(n), tokens, 128);
            for (const MlpWeights* shared : {static_cast<const MlpWeights*>(nullptr),
                                             static_cast<const MlpWeights*>(&m.shared)}) {
              fast->moe(a.tensor, x.tensor, r.ids.tensor, r.weights.tensor, m.experts_, shared);
              slow->moe(b.tensor, x.tensor, r.ids.tensor, r.weights.tensor, m.experts_, shared);
              EXPECT_LT(distance(a, b), tolerance(n, odd))
                  << k->name << " " << name_of(n) << " T " << tokens << " of " << used;
            }
          }
      }
}

TEST(LinearMoe, AllTokensOnOneExpertIsThatExpertsMlp) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics) {
      Mixture m(12, 256, 128, 128, DType::fp8_e4m3, false);
      ThreadPool pool(2);
      std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
      Matrix x = small_inputs(n, 40, 256, 10);
      Routed r(40, 1);
      for (int t = 0; t < 40; ++t) r.set(t, 0, 11, 1.0f);
      Matrix a(activation_type(n), 40, 256), b(activation_type(n), 40, 256);
      ops->moe(a.tensor, x.tensor, r.ids.tensor, r.weights.tensor, m.experts_, nullptr);
      ops->mlp(b.tensor, x.tensor, m.experts_[11]);
      expect_same_bits(a.tensor, b.tensor, "one expert");
    }
}

TEST(LinearMoe, IsBitEqualForAnyBatchAndThreadCount) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics)
      for (bool odd : {false, true}) {
        Mixture m(12, 256, 200, 64, DType::fp8_e4m3, odd);
        Matrix x = small_inputs(n, 33, 256, 10);
        Routed r = random_routing(33, 4, 12, 3);
        Matrix whole(activation_type(n), 33, 256), part(activation_type(n), 33, 256);
        ThreadPool one(1);
        k->make(n, small_workload(), one)
            ->moe(whole.tensor, x.tensor, r.ids.tensor, r.weights.tensor, m.experts_, &m.shared);
        for (int threads : {1, 2, 3}) {
          ThreadPool pool(threads);
          std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
          for (auto [begin, end] : {std::pair{0, 33}, {4, 5}, {7, 10}, {20, 33}}) {
            Tensor to = part.tensor.slice(begin, end);
            ops->moe(to, x.tensor.slice(begin, end), r.ids.tensor.slice(begin, end),
                     r.weights.tensor.slice(begin, end), m.experts_, &m.shared);
            expect_same_bits(whole.tensor.slice(begin, end), to,
                             fmt::format("{} {} {} threads, rows {} to {}", k->name, name_of(n),
                                         threads, begin, end));
            if (HasFatalFailure()) return;
          }
        }
      }
}

// One expert in bf16 among FP8 ones: in fp8 numerics they want different inputs.
TEST(LinearMoe, TakesMixedExperts) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics) {
      Mixture m(6, 128, 128, 128, DType::fp8_e4m3, false);
      RandomMlp plain(128, 128, DType::bf16, 77), wide(128, 128, DType::f32, 78);
      m.experts_[2] = plain.weights();
      m.experts_[3] = wide.weights();
      ThreadPool pool(2);
      Matrix x = small_inputs(n, 9, 128, 10);
      Routed r = random_routing(9, 3, 6, 3);
      Matrix a(activation_type(n), 9, 128), b(activation_type(n), 9, 128);
      k->make(n, small_workload(), pool)
          ->moe(a.tensor, x.tensor, r.ids.tensor, r.weights.tensor, m.experts_, &m.shared);
      make_reference_ops(n, small_workload(), pool)
          ->moe(b.tensor, x.tensor, r.ids.tensor, r.weights.tensor, m.experts_, &m.shared);
      EXPECT_LT(distance(a, b), tolerance(n)) << k->name << " " << name_of(n);
    }
}

TEST(LinearRoute, ChoosesAsTheReferenceDoesAndKeepsTies) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics) {
      ThreadPool pool(2);
      RouterShape shape{.experts = 12,
                        .groups = 4,
                        .kept_groups = 2,
                        .per_token = 4,
                        .scale = 2.5f,
                        .normalise = true,
                        .sigmoid = true};
      RandomWeight gate(12, 384, DType::bf16, 5);
      // Experts 4 and 5 are copies of 3: whatever the input, a tie.
      for (int e : {4, 5})
        std::memcpy(const_cast<Bf16*>(gate.weight.row<Bf16>(e)), gate.weight.row<Bf16>(3), 768);
      std::vector<float> bias(12, 0.0f);
      bias[3] = bias[4] = bias[5] = 10.0f;  // and chosen
      Matrix x = small_inputs(n, 40, 384, 6);
      std::unique_ptr<Ops> fast = k->make(n, small_workload(), pool);
      std::unique_ptr<Ops> slow = make_reference_ops(n, small_workload(), pool);
      Routed a(40, 4), b(40, 4), one(1, 4);
      fast->route(a.ids.tensor, a.weights.tensor, x.tensor, gate.weight, bias.data(), shape);
      slow->route(b.ids.tensor, b.weights.tensor, x.tensor, gate.weight, bias.data(), shape);
      for (int t = 0; t < 40; ++t) {
        const int32_t* ids = a.ids.tensor.row<int32_t>(t);
        EXPECT_EQ(ids[0], 3);
        EXPECT_EQ(ids[1], 4);
        EXPECT_EQ(ids[2], 5);
        for (int j = 0; j < 4; ++j) {
          EXPECT_EQ(ids[j], b.ids.tensor.row<int32_t>(t)[j]);
          EXPECT_NEAR(a.weights.at(t, j), b.weights.at(t, j), 1e-5);
        }
        fast->route(one.ids.tensor, one.weights.tensor, x.tensor.slice(t, t + 1), gate.weight,
                    bias.data(), shape);
        expect_same_bits(a.ids.tensor.slice(t, t + 1), one.ids.tensor, "ids");
        expect_same_bits(a.weights.tensor.slice(t, t + 1), one.weights.tensor, "weights");
      }
    }
}

}  // namespace
}  // namespace fathom::test
