#include "bench/cuda/moe_bench.h"

#include <fmt/format.h>

#include "kernels/cuda/moe/moe.h"
#include "numerics/fp8.h"

namespace fathom::cuda {
namespace {

constexpr int kExperts = 256, kPerToken = 8, kHidden = 7168, kIntermediate = 2048;
constexpr RouterShape kRouter = {kExperts, 8, 4, kPerToken, 2.5f, true, true};

// The arrays of one step; several sets follow each other if they must not be found in the cache.
class Step {
 public:
  Step(BenchContext& bench, int tokens)
      : bench_(bench), tokens_(tokens), rows_(tokens * kPerToken) {
    cudaStream_t stream = bench.launch().stream;
    fill_f32(logits(), int64_t{tokens} * kExperts, 2.0f, 1, stream);
    fill_f32(bias(), kExperts, 0.1f, 2, stream);
    route_and_permute(route_params(), permute_params(), bench.launch());
    FATHOM_CUDA(cudaStreamSynchronize(stream));
  }

  void run() {
    const double small = tokens_ * (4.0 * kExperts + 8.0 * kPerToken);
    time("route", 0, small, [&](const Launch& l, std::byte*) { route(route_params(), l); });
    time("permute", 0, 12.0 * rows_,
         [&](const Launch& l, std::byte*) { permute(permute_params(), l); });
    time("route + permute", 0, small + 8.0 * rows_, [&](const Launch& l, std::byte*) {
      route_and_permute(route_params(), permute_params(), l);
    });
    // Token rows are read from memory once and k times in all: the other reads come from the cache.
    const double codes = kHidden * (1 + 4.0 / kFp8Block);
    const int64_t gathered = pad(int64_t{rows_} * kHidden);
    time("gather fp8", pad(int64_t{tokens_} * kHidden) + 2 * gathered, (tokens_ + rows_) * codes,
         [&](const Launch& l, std::byte* at) {
           const int64_t scales = (rows_ + 3) / 4 * 4;
           GatherQuantisedParams p;
           p.codes = reinterpret_cast<uint8_t*>(at);
           p.k = kHidden;
           p.scale_stride = p.out_scale_stride = scales;
           p.tokens = tokens_;
           p.per_token = kPerToken;
           p.row_of = ints(row_of_);
           p.token_of = ints(token_of_);
           p.live_rows = ints(offsets_) + kExperts;
           p.out_codes = reinterpret_cast<uint8_t*>(at) + pad(int64_t{tokens_} * kHidden);
           p.scales = p.out_scales = reinterpret_cast<float*>(p.out_codes + gathered);
           gather_quantised(p, l);
         });
    const int64_t gate_up = int64_t{rows_} * kIntermediate * 4;
    time("silu x up -> fp8", gate_up + int64_t{rows_} * kIntermediate * 2,
         rows_ * (5.0 + 4.0 / kFp8Block) * kIntermediate, [&](const Launch& l, std::byte* at) {
           SiluMulParams p;
           p.gate_up = reinterpret_cast<const Bf16*>(at);
           p.intermediate = kIntermediate;
           p.max_rows = rows_;
           p.live_rows = ints(offsets_) + kExperts;
           p.codes = reinterpret_cast<uint8_t*>(at + gate_up);
           p.scales = reinterpret_cast<float*>(p.codes + int64_t{rows_} * kIntermediate);
           p.scale_stride = (rows_ + 3) / 4 * 4;
           silu_mul(p, l);
         });
    const int64_t expert_rows = expert_bytes(), row = int64_t{tokens_} * kHidden * 2;
    time("combine", expert_rows + 2 * row, static_cast<double>(expert_rows + 2 * row),
         [&](const Launch& l, std::byte* at) {
           CombineParams p = combine_params(at);
           p.out = reinterpret_cast<Bf16*>(at + expert_rows + row);
           combine(p, l);
         });
    time("combine + norm", expert_rows + 5 * row, static_cast<double>(expert_rows + 4.5 * row),
         [&](const Launch& l, std::byte* at) {
           const CombineParams p = combine_params(at);
           RmsNormParams norm;
           norm.residual = reinterpret_cast<Bf16*>(at + expert_rows + row);
           norm.out = reinterpret_cast<Bf16*>(at + expert_rows + 2 * row);
           norm.gain = reinterpret_cast<const float*>(logits_.data());
           norm.codes = {reinterpret_cast<uint8_t*>(at + expert_rows + 3 * row),
                         reinterpret_cast<float*>(at + expert_rows + 4 * row),
                         (tokens_ + 3) / 4 * 4};
           norm.rows = tokens_;
           norm.n = kHidden;
           norm.residual_stride = norm.out_stride = kHidden;
           norm.eps = 1e-6f;
           combine_rms_norm(p, norm, l);
         });
  }

 private:
  int64_t expert_bytes() const { return int64_t{rows_} * kHidden * 2; }
  // Without where the sum goes. The experts' rows lie at `at`, the shared expert's behind them.
  CombineParams combine_params(const std::byte* at) const {
    CombineParams p;
    p.rows = reinterpret_cast<const Bf16*>(at);
    p.row_of = ints(row_of_);
    p.weights = reinterpret_cast<const float*>(weights_.data());
    p.shared = reinterpret_cast<const Bf16*>(at + expert_bytes());
    p.tokens = tokens_;
    p.per_token = kPerToken;
    p.n = kHidden;
    return p;
  }
  static int64_t pad(int64_t bytes) { return (bytes + 255) / 256 * 256; }
  static int32_t* ints(const Buffer& b) { return reinterpret_cast<int32_t*>(b.data()); }
  float* logits() const { return reinterpret_cast<float*>(logits_.data()); }
  float* bias() const { return reinterpret_cast<float*>(bias_.data()); }

  RouteParams route_params() const {
    RouteParams p;
    p.logits = logits();
    p.bias = bias();
    p.tokens = tokens_;
    p.shape = kRouter;
    p.ids = ints(ids_);
    p.weights = reinterpret_cast<float*>(weights_.data());
    return p;
  }
  PermuteParams permute_params() const {
    PermuteParams p;
    p.ids = ints(ids_);
    p.tokens = tokens_;
    p.per_token = kPerToken;
    p.experts = kExperts;
    p.offsets = ints(offsets_);
    p.row_of = ints(row_of_);
    p.token_of = ints(token_of_);
    return p;
  }

  // `set_bytes`: memory of one set, handed to `body`.
  template <class Body>
  void time(const char* name, int64_t set_bytes, double bytes, const Body& body) {
    const std::string shape = fmt::format("{}, {} tokens", name, tokens_);
    if (!bench_.wanted("moe", shape)) return;
    const int sets = set_bytes == 0 ? 1 : bench_.sets_for(static_cast<double>(set_bytes));
    const int64_t stride = pad(set_bytes);
    Buffer memory(static_cast<size_t>(sets * stride), MemoryKind::device);
    fill_bf16(memory.data(), sets * stride / 2, 1.0f, 3, bench_.launch().stream);
    double us =
        bench_.time(sets, [&](const Launch& l, int set) { body(l, memory.data() + set * stride); });
    bench_.report("moe", shape, us, 0, BenchContext::Math::bf16, bytes);
  }

  Buffer bytes(int64_t n) const { return Buffer(static_cast<size_t>(n), MemoryKind::device); }

  BenchContext& bench_;
  int tokens_, rows_;
  Buffer logits_ = bytes(int64_t{tokens_} * kExperts * 4), bias_ = bytes(kExperts * 4);
  Buffer ids_ = bytes(rows_ * 4), weights_ = bytes(rows_ * 4);
  Buffer offsets_ = bytes((kExperts + 1) * 4), row_of_ = bytes(rows_ * 4),
         token_of_ = bytes(rows_ * 4);
};

}  // namespace

void bench_moe(BenchContext& bench) {
  for (int tokens : {1, 64, 4096})
    if (bench.wanted("moe", fmt::format("{} tokens", tokens))) Step(bench, tokens).run();
}

}  // namespace fathom::cuda
