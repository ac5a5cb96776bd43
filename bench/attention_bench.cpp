// Time of the attention ops at the shapes of the bundled model (4 heads, 8 index heads, top-k 256)
// and of the real one (128, 64, 2048): a chunk of 512 prompt tokens that ends at the given context,
// and one decoded token. Times are per call; items are tokens.
//
//   attention_bench [--threads=N] [--kernels=NAME] [--numerics=exact|bf16|fp8] [benchmark flags]
#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu_ops.h"
#include "tensor/buffer.h"

namespace fathom {
namespace {

using K = KernelDims;

struct Shape {
  const char* name;
  int heads, index_heads, topk;
};
constexpr Shape kSmall{"small", 4, 8, 256}, kReal{"real", 128, 64, 2048};

struct Settings {
  int threads = 0;
  std::string kernels;
  Numerics numerics = Numerics::bf16;
};

// Positive codes below NaN and bf16 numbers of moderate size alike.
void fill(Buffer& b, uint64_t mask, uint64_t base) {
  std::mt19937_64 rng(1);
  uint64_t* p = reinterpret_cast<uint64_t*>(b.data());
  for (size_t i = 0; i < b.size() / 8; ++i) p[i] = (rng() & mask) | base;
}

// One step of `tokens` tokens of one sequence, the last at position context - 1.
class Step {
 public:
  Step(const Settings& settings, const Shape& shape, int context, int tokens, AttentionForm form)
      : shape_(shape), pool_(settings.threads), tokens_(tokens) {
    const Numerics n = settings.numerics;
    const DType act = n == Numerics::exact ? DType::f32 : DType::bf16;
    const KvFormat kv = n == Numerics::exact  ? KvFormat::f32
                        : n == Numerics::bf16 ? KvFormat::bf16
                                              : KvFormat::fp8;
    w_.step_tokens = tokens, w_.context = context, w_.hidden = 384, w_.max_intermediate = 128;
    w_.heads = shape.heads, w_.nope = K::kNope, w_.rope = K::kRope, w_.value = K::kValue;
    w_.latent = K::kLatent, w_.q_rank = 256, w_.vocab = 128;
    w_.index_heads = shape.index_heads, w_.index_dim = K::kIndex, w_.index_topk = shape.topk;
    w_.experts = 16, w_.experts_per_token = 4;
    ops_ = pick_cpu_kernels(settings.kernels).make(n, w_, pool_);
    set_batch(context, form);
    set_cache(kv, n == Numerics::bf16 ? KvFormat::bf16 : kv, context);

    q_ = tensor(act, {tokens, shape.heads, K::kNope + K::kRope});
    index_in_ = tensor(act, {tokens, shape.index_heads, K::kIndex});
    index_q_ =
        tensor(n == Numerics::fp8 ? DType::fp8_e4m3 : act, {tokens, shape.index_heads, K::kIndex});
    head_weight_ = tensor(DType::f32, {tokens, shape.index_heads});
    kv_a_ = tensor(act, {tokens, K::kLatent + K::kRope});
    index_key_ = tensor(act, {tokens, K::kIndex});
    out_ = tensor(act, {tokens, int64_t{shape.heads} * K::kValue});
    picked_ = tensor(DType::i32, {tokens, shape.topk});
    const int64_t rows = int64_t{shape.heads} * (K::kNope + K::kValue);
    codes_ = Buffer(static_cast<size_t>(rows * K::kLatent));
    fill(codes_, 0xBFBFBFBFBFBFBFBF, 0);
    scales_.assign(static_cast<size_t>(rows / 128 * 4), 0x1p-6f);
    up_ = {{.data = codes_.data(),
            .dtype = DType::fp8_e4m3,
            .rows = rows,
            .cols = K::kLatent,
            .scale = scales_.data(),
            .scale_stride = 4,
            .pow2_scale = true},
           shape.heads,
           K::kNope,
           K::kValue,
           K::kLatent};
    topk();
  }

  void topk() { ops_->index_topk(picked_, index_q_, head_weight_, kv_, batch_); }
  void attend() {
    ops_->attend_expanded(out_, q_, up_, picked_, kv_, batch_, 0.1f);
    ops_->attend_absorbed(out_, q_, up_, picked_, kv_, batch_, 0.1f);
  }
  // Everything else of a layer that is this file's business.
  void append() {
    ops_->rope_query(q_, batch_, rope_);
    ops_->append_latent(kv_, kv_a_, ones_.data(), 1e-6f, batch_, rope_);
    ops_->append_index_key(kv_, index_key_, {ones_.data(), ones_.data()}, batch_, rope_);
    ops_->index_query(index_q_, scratch_weight(), index_in_, batch_, rope_);
  }
  int tokens() const { return tokens_; }

 private:
  Tensor tensor(DType dtype, std::initializer_list<int64_t> shape) {
    size_t n = size_of(dtype);
    for (int64_t d : shape) n *= static_cast<size_t>(d);
    memory_.emplace_back((n + 63) / 64 * 64);
    Buffer& b = memory_.back();
    if (dtype == DType::f32) {
      fill(b, 0x807FFFFF807FFFFF, 0x3F0000003F000000);
    } else {
      fill(b, 0x80FF80FF80FF80FF, 0x3E003E003E003E00);
    }
    return Tensor(b.data(), dtype, shape);
  }
  // index_query scales in place, so that a weight in use would vanish after some thousand calls.
  Tensor scratch_weight() {
    if (spare_.empty()) spare_ = tensor(DType::f32, {tokens_, shape_.index_heads});
    return spare_;
  }
  void set_batch(int context, AttentionForm form) {
    for (int t = 0; t < tokens_; ++t) positions_.push_back(context - tokens_ + t);
    sequence_of_.assign(static_cast<size_t>(tokens_), 0);
    for (int p = 0; p * kPageRows < context; ++p) pages_.push_back(p);
    span_ = {0, tokens_, 0, form};
    batch_.tokens = tokens_;
    batch_.sequences = 1;
    batch_.positions = positions_.data();
    batch_.sequence_of = sequence_of_.data();
    batch_.page_tables = pages_.data();
    batch_.max_pages = static_cast<int>(pages_.size());
    batch_.spans = {&span_, 1};
    angles_.assign(static_cast<size_t>(context) * K::kRope / 2, 0.7f);
    rope_ = {angles_.data(), angles_.data(), K::kRope, context};
    ones_.assign(K::kLatent, 1.0f);
  }
  void set_cache(KvFormat latent, KvFormat index, int64_t context) {
    const int64_t rows = (context + kPageRows - 1) / kPageRows * kPageRows;
    auto rows_of = [&](KvFormat f, int64_t width) {
      DType t = f == KvFormat::f32 ? DType::f32 : f == KvFormat::bf16 ? DType::bf16 : DType::u8;
      return static_cast<std::byte*>(
          tensor(t, {rows, width / static_cast<int64_t>(size_of(t))}).data);
    };
    kv_.latent_format = latent, kv_.index_format = index;
    kv_.latent_dim = K::kLatent, kv_.rope_dim = K::kRope, kv_.index_dim = K::kIndex;
    kv_.latent_stride = latent_row_bytes(latent, K::kLatent, K::kRope);
    kv_.index_stride = index_row_bytes(index, K::kIndex);
    kv_.latent = rows_of(latent, kv_.latent_stride);
    kv_.index = rows_of(index, kv_.index_stride);
  }

  const Shape shape_;
  ThreadPool pool_;
  const int tokens_;
  Workload w_;
  std::unique_ptr<Ops> ops_;
  std::vector<Buffer> memory_;
  Buffer codes_;
  std::vector<float> scales_, angles_, ones_;
  std::vector<int32_t> positions_, sequence_of_, pages_;
  AttentionSpan span_{};
  BatchView batch_;
  RopeTable rope_;
  KvView kv_;
  KvUpWeights up_;
  Tensor q_, index_in_, index_q_, head_weight_, kv_a_, index_key_, out_, picked_, spare_;
};

template <class Op>
void add(const std::string& name, const Settings& settings, const Shape& shape, int context,
         int tokens, AttentionForm form, Op op) {
  std::string full = fmt::format("{}/{}/{}", shape.name, name, context);
  benchmark::RegisterBenchmark(full.c_str(),
                               [=](benchmark::State& state) {
                                 Step step(settings, shape, context, tokens, form);
                                 for (auto _ : state) op(step);
                                 state.SetItemsProcessed(state.iterations() * tokens);
                               })
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond);
}

void add_all(const Settings& settings, const Shape& shape, std::vector<int> contexts, int chunk) {
  auto attend = [](Step& s) { s.attend(); };
  auto topk = [](Step& s) { s.topk(); };
  auto append = [](Step& s) { s.append(); };
  const AttentionForm absorbed = AttentionForm::absorbed;
  for (int c : contexts) {
    add("prefill/expanded", settings, shape, c, chunk, AttentionForm::expanded, attend);
    add("prefill/absorbed", settings, shape, c, chunk, absorbed, attend);
    add("prefill/topk", settings, shape, c, chunk, absorbed, topk);
    add("decode/absorbed", settings, shape, c, 1, absorbed, attend);
    add("decode/topk", settings, shape, c, 1, absorbed, topk);
  }
  add("prefill/append", settings, shape, chunk, chunk, absorbed, append);
  add("decode/append", settings, shape, chunk, 1, absorbed, append);
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  fathom::Settings settings;
  std::vector<char*> rest;
  for (int i = 0; i < argc; ++i) {
    std::string a = argv[i];
    auto value = [&](std::string_view flag) { return a.substr(flag.size()); };
    if (a.starts_with("--threads=")) {
      settings.threads = std::stoi(value("--threads="));
    } else if (a.starts_with("--kernels=")) {
      settings.kernels = value("--kernels=");
    } else if (a.starts_with("--numerics=")) {
      std::string n = value("--numerics=");
      settings.numerics = n == "exact" ? fathom::Numerics::exact
                          : n == "fp8" ? fathom::Numerics::fp8
                                       : fathom::Numerics::bf16;
    } else {
      rest.push_back(argv[i]);
    }
  }
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;
  fathom::add_all(settings, fathom::kSmall, {512, 2048, 3200}, 512);
  fathom::add_all(settings, fathom::kReal, {4096, 32768}, 64);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
