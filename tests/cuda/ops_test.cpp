// The operators on the GPU against the reference on copies of the same inputs, at the bundled
// model's dims and V3.2's; and what holds between operators: stale codes, fused positions, padded
// tokens, recorded steps.
#include <numeric>

#include "base/error.h"
#include "kernels/cpu_ops.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_ops_plan.h"
#include "numerics/rope.h"
#include "support.h"

namespace fathom::cuda {
namespace {

struct Dims {
  int hidden, q_rank, heads, index_heads, topk, dense, expert, experts, per_token, groups;
  int64_t vocab;
};
constexpr Dims kSmall = {384, 256, 4, 8, 256, 1024, 128, 16, 4, 4, 4096};
// V3.2's, but fewer experts and words: those dims have tests of their own.
constexpr Dims kReal = {7168, 1536, 128, 64, 2048, 2048, 2048, 8, 4, 4, 4096};

constexpr int kNope = 128, kRope = 64, kLatent = 512, kValue = 128, kHead = kNope + kRope;
constexpr int64_t kContext = 3072;
constexpr int kPages = 160, kMaxPages = kContext / kPageRows;

// As random_codes, for hundreds of millions of them.
std::vector<uint8_t> many_codes(size_t n, uint32_t seed) {
  const std::vector<uint8_t> table = random_codes(4096, seed);
  std::vector<uint8_t> v(n);
  constexpr size_t kChunk = 1 << 20;
  parallel(static_cast<int64_t>((n + kChunk - 1) / kChunk), [&](int64_t chunk) {
    uint64_t state = (uint64_t{seed} << 32) + static_cast<uint64_t>(chunk);
    for (size_t i = chunk * kChunk; i < std::min(n, (chunk + 1) * kChunk); ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      v[i] = table[state >> 52];
    }
  });
  return v;
}

// A tensor on both sides.
struct Both {
  Tensor host, gpu;
};
struct BothWeight {
  QWeight host, gpu;
};

// Owns memory on both sides; what is made is equal on both.
class Twins {
 public:
  template <class T>
  Both tensor(DType dtype, std::initializer_list<int64_t> shape, const std::vector<T>& values) {
    return {Tensor(keep(values), dtype, shape), Tensor(mirror(values), dtype, shape)};
  }
  Both bf16(std::initializer_list<int64_t> shape, float scale = 1.0f) {
    return tensor(DType::bf16, shape, random_bf16(count(shape), seed_++, scale));
  }
  Both f32(std::initializer_list<int64_t> shape, float scale = 1.0f) {
    return tensor(DType::f32, shape, random_floats(count(shape), seed_++, scale));
  }
  // Outputs start as NaN.
  Both empty(DType dtype, std::initializer_list<int64_t> shape) {
    return tensor(dtype, shape,
                  std::vector<uint8_t>(static_cast<size_t>(count(shape)) * size_of(dtype), 0xFF));
  }
  std::pair<const float*, const float*> gain(int n) {
    std::vector<float> g = random_floats(n, seed_++, 0.2f);
    for (float& x : g) x += 1.0f;
    return {static_cast<const float*>(keep(g)), static_cast<const float*>(mirror(g))};
  }
  // Matrices of `rows[i]` rows one after another in memory, of about unit output per unit input.
  std::vector<BothWeight> weights(std::vector<int64_t> rows, int64_t cols, bool fp8) {
    int64_t all = std::accumulate(rows.begin(), rows.end(), int64_t{0}), blocks = 0;
    std::vector<BothWeight> made;
    float size = 1.0f / std::sqrt(static_cast<float>(cols));
    if (!fp8) {
      Both m = bf16({all, cols}, size);
      for (int64_t n : rows) {
        QWeight w;
        w.dtype = DType::bf16;
        w.rows = n;
        w.cols = cols;
        made.push_back({w, w});
        made.back().host.data = static_cast<Bf16*>(m.host.data) + blocks * cols;
        made.back().gpu.data = static_cast<Bf16*>(m.gpu.data) + blocks * cols;
        blocks += n;
      }
      return made;
    }
    int64_t stride = (cols + 127) / 128;
    for (int64_t n : rows) blocks += (n + 127) / 128;
    std::vector<uint8_t> codes = many_codes(static_cast<size_t>(all * cols), seed_++);
    std::vector<float> scales = random_scales(static_cast<size_t>(blocks * stride), seed_++, true);
    for (float& s : scales) s *= std::exp2(std::round(std::log2(size)));
    const uint8_t *c = static_cast<uint8_t*>(keep(codes)),
                  *gc = static_cast<uint8_t*>(mirror(codes));
    const float *s = static_cast<float*>(keep(scales)), *gs = static_cast<float*>(mirror(scales));
    for (int64_t n : rows) {
      QWeight w;
      w.dtype = DType::fp8_e4m3;
      w.rows = n;
      w.cols = cols;
      w.scale_stride = stride;
      made.push_back({w, w});
      made.back().host.data = c;
      made.back().host.scale = s;
      made.back().gpu.data = gc;
      made.back().gpu.scale = gs;
      c += n * cols;
      gc += n * cols;
      s += (n + 127) / 128 * stride;
      gs += (n + 127) / 128 * stride;
    }
    return made;
  }
  BothWeight weight(int64_t rows, int64_t cols, bool fp8) { return weights({rows}, cols, fp8)[0]; }
  template <class T>
  void* keep(const std::vector<T>& v) {
    host_.emplace_back(v.size() * sizeof(T));
    std::memcpy(host_.back().data(), v.data(), v.size() * sizeof(T));
    return host_.back().data();
  }
  template <class T>
  void* mirror(const std::vector<T>& v) {
    gpu_.emplace_back(std::max<size_t>(16, v.size() * sizeof(T)), MemoryKind::device);
    FATHOM_CUDA(
        cudaMemcpy(gpu_.back().data(), v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return gpu_.back().data();
  }
  static size_t count(std::initializer_list<int64_t> shape) {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return static_cast<size_t>(n);
  }
  uint32_t next_seed() { return seed_++; }

 private:
  uint32_t seed_ = 100;
  std::vector<Buffer> host_, gpu_;
};

std::vector<float> values_of(const Tensor& t) {
  std::vector<float> v;
  for (int64_t r = 0; r < t.rows(); ++r)
    for (int64_t i = 0; i < t.row_size(); ++i)
      v.push_back(t.dtype == DType::f32    ? t.row<float>(r)[i]
                  : t.dtype == DType::bf16 ? to_float(t.row<Bf16>(r)[i])
                                           : static_cast<float>(t.row<int32_t>(r)[i]));
  return v;
}

enum class Form { decode, mixed, expanded };

class OpsTest : public GpuTest {
 protected:
  // Everything one layer needs, on both sides.
  void prepare(Numerics numerics, const Dims& dims, Form form, CudaSettings settings = {},
               bool sparse = true, bool batch_invariant = false) {
    numerics_ = numerics;
    d = dims;
    fp8 = numerics == Numerics::fp8;
    workload.step_tokens = 96;
    workload.context = kContext;
    workload.hidden = d.hidden;
    workload.max_intermediate = std::max(d.dense, d.expert);
    workload.expert_intermediate = d.expert;
    workload.heads = d.heads;
    workload.nope = kNope;
    workload.rope = kRope;
    workload.value = kValue;
    workload.latent = kLatent;
    workload.q_rank = d.q_rank;
    workload.index_heads = d.index_heads;
    workload.index_dim = 128;
    workload.index_topk = d.topk;
    workload.experts = d.experts;
    workload.experts_per_token = d.per_token;
    workload.vocab = d.vocab;
    workload.batch_invariant = batch_invariant;
    workload.index_budget = 1 << 20;  // several tiles
    workload.sequences = 16;
    reference = make_reference_ops(numerics, workload, pool);
    gpu = make_cuda_ops(numerics, workload, settings);
    launch.stream = nullptr;
    make_batch(form);
    make_layer(sparse);
  }
  void TearDown() override {
    if (gpu) {
      gpu->synchronize();
      gpu.reset();
    }
    GpuTest::TearDown();
  }

  // decode: sequences of many lengths, one token each, the last ones padding.
  // mixed: decodes, a chunk from the start and a chunk behind a cached context.
  // expanded: the same, the chunks in expanded form.
  void make_batch(Form form) {
    positions.clear();
    std::vector<std::pair<int, int>> spans_of;  // first position, tokens
    if (form == Form::decode)
      for (int first : {0, 1, 63, 64, 127, d.topk - 1, d.topk, 2500})
        spans_of.push_back({first, 1});
    else
      spans_of = {{2300, 1}, {5, 1}, {0, 37}, {d.topk - 3, 9}};
    std::vector<int32_t> pool_pages(kPages);
    std::iota(pool_pages.begin(), pool_pages.end(), 0);
    std::shuffle(pool_pages.begin(), pool_pages.end(), std::mt19937(3));
    size_t next_page = 0;
    int sequence = 0;
    for (auto [first, n] : spans_of) {
      int begin = static_cast<int>(positions.size());
      spans.push_back(
          {begin, begin + n, sequence,
           n > 1 && form == Form::expanded ? AttentionForm::expanded : AttentionForm::absorbed});
      for (int i = 0; i < n; ++i) {
        positions.push_back(first + i);
        sequence_of.push_back(sequence);
        ids.push_back(static_cast<int32_t>((1 + positions.size() * 997) % d.vocab));
      }
      for (int page = 0; page < kMaxPages; ++page)
        page_tables.push_back(page * kPageRows <= first + n ? pool_pages[next_page++] : -1);
      ++sequence;
    }
    ASSERT_LT(next_page, pool_pages.size());
    live = static_cast<int>(positions.size());
    if (form == Form::decode)
      for (int i = 0; i < 3; ++i) {  // padding: position 0 of one more sequence
        spans.push_back({live + i, live + i + 1, sequence, AttentionForm::absorbed});
        positions.push_back(0);
        sequence_of.push_back(sequence);
        ids.push_back(0);
      }
    if (form == Form::decode) {
      page_tables.push_back(pool_pages[next_page]);
      page_tables.resize(page_tables.size() + kMaxPages - 1, -1);
      ++sequence;
    }
    sequences = sequence;
    logit_rows = {static_cast<int32_t>(live - 1), 0};
  }

  StepInputs inputs() const {
    StepInputs in;
    in.batch = {static_cast<int>(positions.size()),
                sequences,
                positions.data(),
                sequence_of.data(),
                page_tables.data(),
                kMaxPages,
                spans};
    in.live = live;
    in.ids = ids.data();
    in.logit_rows = logit_rows;
    return in;
  }

  struct Layer {  // one side
    const float *norm, *q_norm, *kv_norm, *ffn_norm;
    LayerNormWeights k_norm;
    QWeight embed, q_a, index_k, kv_a, head_weight, q_b, index_q_b, o, gate, head;
    KvUpWeights up;
    const float* bias;
    MlpWeights mlp, shared;
    std::vector<MlpWeights> experts;
    KvView kv;
    RopeTable rope;
    Tensor residual, normed, update, q_low, kv_a_out, index_k_out, weights_out, q, index_q,
        index_q8, picked, attended, ids, weight, logits;
  };

  void make_layer(bool sparse) {
    const int64_t t = static_cast<int64_t>(positions.size());
    auto set = [&](QWeight Layer::*w, const BothWeight& b) {
      host.*w = b.host;
      dev.*w = b.gpu;
    };
    auto gains = [&](const float* Layer::*w, int n) {
      auto [h, g] = twins.gain(n);
      host.*w = h;
      dev.*w = g;
    };
    gains(&Layer::norm, d.hidden);
    gains(&Layer::q_norm, d.q_rank);
    gains(&Layer::kv_norm, kLatent);
    gains(&Layer::ffn_norm, d.hidden);
    auto [hw, gw] = twins.gain(128);
    auto [hb, gb] = twins.gain(128);
    host.k_norm = {hw, hb};
    dev.k_norm = {gw, gb};
    set(&Layer::embed, twins.weight(d.vocab, d.hidden, false));
    auto down = twins.weights({d.q_rank, 128, kLatent + kRope}, d.hidden, fp8);
    set(&Layer::q_a, down[0]);
    set(&Layer::index_k, down[1]);
    set(&Layer::kv_a, down[2]);
    set(&Layer::head_weight, twins.weight(d.index_heads, d.hidden, false));
    auto up = twins.weights({d.heads * kHead, d.index_heads * 128}, d.q_rank, fp8);
    set(&Layer::q_b, up[0]);
    set(&Layer::index_q_b, up[1]);
    set(&Layer::o, twins.weight(d.hidden, d.heads * kValue, fp8));
    set(&Layer::gate, twins.weight(d.experts, d.hidden, false));
    set(&Layer::head, twins.weight(d.vocab, d.hidden, false));
    make_kv_up();
    std::vector<float> bias = random_floats(d.experts, twins.next_seed(), 0.1f);
    host.bias = static_cast<float*>(twins.keep(bias));
    dev.bias = static_cast<float*>(twins.mirror(bias));
    auto mlp_of = [&](int inter, MlpWeights& h, MlpWeights& g) {
      auto gu = twins.weights({inter, inter}, d.hidden, fp8);
      auto dn = twins.weight(d.hidden, inter, fp8);
      h = {gu[0].host, gu[1].host, dn.host};
      g = {gu[0].gpu, gu[1].gpu, dn.gpu};
    };
    mlp_of(d.dense, host.mlp, dev.mlp);
    mlp_of(d.expert, host.shared, dev.shared);
    auto gate_up = twins.weights(std::vector<int64_t>(2 * d.experts, d.expert), d.hidden, fp8);
    auto expert_down = twins.weights(std::vector<int64_t>(d.experts, d.hidden), d.expert, fp8);
    for (int e = 0; e < d.experts; ++e) {
      host.experts.push_back({gate_up[2 * e].host, gate_up[2 * e + 1].host, expert_down[e].host});
      dev.experts.push_back({gate_up[2 * e].gpu, gate_up[2 * e + 1].gpu, expert_down[e].gpu});
    }
    make_cache();
    make_rope();

    auto both = [&](Tensor Layer::*m, const Both& b) {
      host.*m = b.host;
      dev.*m = b.gpu;
    };
    using D = DType;
    both(&Layer::residual, twins.empty(D::bf16, {t, d.hidden}));
    both(&Layer::normed, twins.empty(D::bf16, {t, d.hidden}));
    both(&Layer::update, twins.empty(D::bf16, {t, d.hidden}));
    both(&Layer::q_low, twins.empty(D::bf16, {t, d.q_rank}));
    both(&Layer::kv_a_out, twins.empty(D::bf16, {t, kLatent + kRope}));
    both(&Layer::index_k_out, twins.empty(D::bf16, {t, 128}));
    both(&Layer::weights_out, twins.empty(D::f32, {t, d.index_heads}));
    both(&Layer::q, twins.empty(D::bf16, {t, d.heads, kHead}));
    both(&Layer::index_q, twins.empty(D::bf16, {t, d.index_heads, 128}));
    both(&Layer::index_q8, twins.empty(fp8 ? D::fp8_e4m3 : D::bf16, {t, d.index_heads, 128}));
    if (sparse) both(&Layer::picked, twins.empty(D::i32, {t, d.topk}));
    both(&Layer::attended, twins.empty(D::bf16, {t, int64_t{d.heads} * kValue}));
    both(&Layer::ids, twins.empty(D::i32, {t, d.per_token}));
    both(&Layer::weight, twins.empty(D::f32, {t, d.per_token}));
    both(&Layer::logits, twins.empty(D::f32, {static_cast<int64_t>(logit_rows.size()), d.vocab}));
  }

  void make_kv_up() {
    BothWeight b = twins.weight(d.heads * (kNope + kValue), kLatent, fp8);
    auto value = [&](int64_t row, int64_t col) {
      const QWeight& w = b.host;
      return fp8 ? to_bf16(fp8_to_float(w.row<uint8_t>(row)[col]) * w.scales_of_row(row)[col / 128])
                 : w.row<Bf16>(row)[col];
    };
    std::vector<Bf16> absorb, up;
    for (int64_t h = 0; h < d.heads; ++h) {
      for (int c = 0; c < kLatent; ++c)
        for (int j = 0; j < kNope; ++j) absorb.push_back(value(h * 256 + j, c));
      for (int j = 0; j < kValue; ++j)
        for (int c = 0; c < kLatent; ++c) up.push_back(value(h * 256 + kNope + j, c));
    }
    host.up = {.kv_b = b.host, .heads = d.heads, .nope = kNope, .value = kValue, .latent = kLatent};
    dev.up = host.up;
    dev.up.kv_b = b.gpu;
    dev.up.absorb = static_cast<Bf16*>(twins.mirror(absorb));
    dev.up.value_up = static_cast<Bf16*>(twins.mirror(up));
  }

  void make_cache() {
    KvView kv;
    kv.latent_format = kv.index_format = fp8 ? KvFormat::fp8 : KvFormat::bf16;
    kv.latent_dim = kLatent;
    kv.rope_dim = kRope;
    kv.index_dim = 128;
    kv.latent_stride = latent_row_bytes(kv.latent_format, kLatent, kRope);
    kv.index_stride = index_row_bytes(kv.index_format, 128);
    const int64_t rows = int64_t{kPages} * kPageRows;
    std::vector<uint8_t> latent(rows * kv.latent_stride), index(rows * kv.index_stride);
    auto fill_bf16 = [&](uint8_t* to, int64_t n) {
      std::vector<Bf16> v = random_bf16(n, twins.next_seed());
      std::memcpy(to, v.data(), n * 2);
    };
    if (fp8) {
      std::vector<uint8_t> codes = random_codes(rows * 512, twins.next_seed());
      std::vector<uint8_t> keys = random_codes(rows * 128, twins.next_seed());
      for (int64_t r = 0; r < rows; ++r) {
        LatentRowFp8 row;
        std::memcpy(row.code, &codes[r * 512], 512);
        for (int g = 0; g < 4; ++g) row.scale[g] = std::exp2(-6.0f - static_cast<float>(r % 2));
        fill_bf16(reinterpret_cast<uint8_t*>(row.rope), 64);
        std::memcpy(&latent[r * 656], &row, 656);
        IndexPageFp8* page = reinterpret_cast<IndexPageFp8*>(index.data()) + r / kPageRows;
        std::memcpy(page->code[r % kPageRows], &keys[r * 128], 128);
        page->scale[r % kPageRows] = std::exp2(-7.0f + static_cast<float>(r % 3));
      }
    } else {
      fill_bf16(latent.data(), rows * 576);
      fill_bf16(index.data(), rows * 128);
    }
    latent_bytes = latent.size();
    index_bytes = index.size();
    latent_start = latent;
    index_start = index;
    host.kv = dev.kv = kv;
    host.kv.latent = static_cast<std::byte*>(twins.keep(latent));
    host.kv.index = static_cast<std::byte*>(twins.keep(index));
    dev.kv.latent = static_cast<std::byte*>(twins.mirror(latent));
    dev.kv.index = static_cast<std::byte*>(twins.mirror(index));
  }

  void make_rope() {
    std::vector<float> f = rope_frequencies(kRope, 10000.0, nullptr), cos, sin;
    for (int64_t pos = 0; pos < kContext; ++pos)
      for (float x : f) {
        cos.push_back(std::cos(static_cast<float>(pos) * x));
        sin.push_back(std::sin(static_cast<float>(pos) * x));
      }
    host.rope = {static_cast<float*>(twins.keep(cos)), static_cast<float*>(twins.keep(sin)), kRope,
                 kContext};
    dev.rope = {static_cast<float*>(twins.mirror(cos)), static_cast<float*>(twins.mirror(sin)),
                kRope, kContext};
  }

  RouterShape router() const {
    return {d.experts, d.groups, d.groups / 2, d.per_token, 2.5f, true, true};
  }

  // The model's layer, op by op. `after(name, result)` sees every result.
  template <class After>
  void run_layer(Ops& ops, const Layer& w, const After& after) {
    const StepInputs in = ops.begin_step(inputs());
    const BatchView& b = in.batch;
    ops.embed(w.residual, in.ids, w.embed);
    after("embed", &Layer::residual);
    ops.rms_norm(w.normed, w.residual, w.norm, 1e-6f);
    after("rms_norm", &Layer::normed);
    const Projection first[] = {{w.q_low, w.q_a},
                                {w.kv_a_out, w.kv_a},
                                {w.index_k_out, w.index_k},
                                {w.weights_out, w.head_weight}};
    ops.project(first, w.normed);
    after("q_a", &Layer::q_low);
    after("kv_a", &Layer::kv_a_out);
    after("index_k", &Layer::index_k_out);
    after("head weights", &Layer::weights_out);
    ops.rms_norm(w.q_low, w.q_low, w.q_norm, 1e-6f);
    after("q_low", &Layer::q_low);
    const Projection second[] = {{w.q, w.q_b}, {w.index_q, w.index_q_b}};
    ops.project(second, w.q_low);
    after("q_b", &Layer::q);
    after("index q_b", &Layer::index_q);
    ops.rope_query(w.q, b, w.rope);
    ops.append_latent(w.kv, w.kv_a_out, w.kv_norm, 1e-6f, b, w.rope);
    ops.append_index_key(w.kv, w.index_k_out, w.k_norm, b, w.rope);
    ops.index_query(w.index_q8, w.weights_out, w.index_q, b, w.rope);
    after("rope", &Layer::q);
    after("scaled head weights", &Layer::weights_out);
    if (!w.picked.empty()) {
      ops.index_topk(w.picked, w.index_q8, w.weights_out, w.kv, b);
      after("picked", &Layer::picked);
    }
    ops.attend_expanded(w.attended, w.q, w.up, w.picked, w.kv, b, 0.1f);
    ops.attend_absorbed(w.attended, w.q, w.up, w.picked, w.kv, b, 0.1f);
    after("attended", &Layer::attended);
    ops.linear(w.update, w.attended, w.o);
    after("o", &Layer::update);
    ops.add_rms_norm(w.normed, w.residual, w.update, w.ffn_norm, 1e-6f);
    after("residual", &Layer::residual);
    after("add_rms_norm", &Layer::normed);
    ops.mlp(w.update, w.normed, w.mlp);
    after("mlp", &Layer::update);
    ops.route(w.ids, w.weight, w.normed, w.gate, w.bias, router());
    after("ids", &Layer::ids);
    after("weights", &Layer::weight);
    ops.moe(w.update, w.normed, w.ids, w.weight, w.experts, &w.shared);
    after("moe", &Layer::update);
    ops.gather_rows(w.residual.slice(0, w.logits.rows()), w.normed, in.logit_rows);
    ops.logits(w.logits, w.residual.slice(0, w.logits.rows()), w.head);
    after("logits", &Layer::logits);
  }

  Tensor fetched(Tensor gpu_tensor, std::vector<std::byte>& memory) {
    memory.resize(static_cast<size_t>(gpu_tensor.size()) * size_of(gpu_tensor.dtype));
    gpu->download(memory.data(), gpu_tensor.data, memory.size());
    Tensor t = gpu_tensor;
    t.data = memory.data();
    return t;
  }
  void push(const Tensor& from, const Tensor& to) {
    gpu->upload(to.data, from.data, static_cast<size_t>(from.size()) * size_of(from.dtype));
  }

  // Relative L2 distance over the live rows.
  double distance(const Tensor& got, const Tensor& want) const {
    std::vector<float> g = values_of(got), w = values_of(want);
    size_t n = w.size();
    if (want.rows() == static_cast<int64_t>(positions.size()))
      n = static_cast<size_t>(live) * want.row_size();
    double off = 0, all = 1e-30;
    for (size_t i = 0; i < n; ++i) {
      if (!(std::abs(g[i]) < 1e30f)) return INFINITY;
      off += (double{g[i]} - w[i]) * (double{g[i]} - w[i]);
      all += double{w[i]} * w[i];
    }
    return std::sqrt(off / all);
  }

  Numerics numerics_ = Numerics::fp8;
  Dims d{};
  bool fp8 = true;
  Workload workload;
  ThreadPool pool;
  std::unique_ptr<Ops> reference;
  std::unique_ptr<CudaOps> gpu;
  Twins twins;
  Layer host{}, dev{};
  std::vector<int32_t> positions, sequence_of, page_tables, ids, logit_rows;
  std::vector<AttentionSpan> spans;
  int sequences = 0, live = 0;
  size_t latent_bytes = 0, index_bytes = 0;
  std::vector<uint8_t> latent_start, index_start;
};

// Every op on the reference's own inputs: after each, the GPU's result is measured and then
// replaced by the reference's, so that no op inherits another's rounding.
class OpByOp : public OpsTest {
 protected:
  void compare() {
    struct Result {
      std::string op;
      Tensor Layer::*at;
      std::vector<std::byte> bytes;
    };
    std::vector<Result> wanted;
    std::vector<Tensor> after_each;
    run_layer(*reference, host, [&](const char* op, Tensor Layer::*at) {
      const Tensor& t = host.*at;
      const std::byte* p = static_cast<const std::byte*>(t.data);
      wanted.push_back({op, at, {p, p + t.size() * size_of(t.dtype)}});
    });
    size_t i = 0;
    run_layer(*gpu, dev, [&](const char* op, Tensor Layer::*at) {
      Result& want = wanted[i++];
      ASSERT_EQ(want.op, op);
      std::vector<std::byte> memory;
      Tensor got = fetched(dev.*at, memory), exact = got;
      exact.data = want.bytes.data();
      judge(op, got, exact);
      push(exact, dev.*at);
      if (std::string(op) == "scaled head weights") compare_cache_and_codes();
    });
  }

  void judge(const std::string& op, const Tensor& got, const Tensor& want) {
    if (op == "ids" || op == "picked") {
      std::vector<float> g = values_of(got), w = values_of(want);
      int64_t off = 0, n = int64_t{live} * want.row_size();
      for (int64_t i = 0; i < n; ++i) off += g[i] != w[i];
      // Sums in another order may swap neighbours of nearly equal score.
      EXPECT_LE(off, n / 100) << op;
      return;
    }
    // Results that pass through a second rounding (activations, probabilities, latent queries) may
    // flip some of it; others differ where a tie of the one rounding falls elsewhere. The tensor
    // core adds the 32 products of one FP8 instruction to fewer bits than float32 has: up to 1e-3.
    const std::string& o = op;
    const bool product =
        o == "q_a" || o == "kv_a" || o == "index_k" || o == "q_b" || o == "index q_b" || o == "o";
    const bool twice = o == "mlp" || o == "moe" || o == "attended";
    // A 1e-3 that moves one code in a hundred by a sixteenth of its value is most of an MLP's.
    double bound = twice && fp8              ? 1.2e-2
                   : twice                   ? 6e-3
                   : o == "embed"            ? 0.0
                   : o == "residual"         ? 1e-9
                   : product && fp8          ? 2e-3
                   : o == "logits"           ? 3e-5  // sums of 7168 cut to the adder's width
                   : got.dtype == DType::f32 ? 2e-6
                                             : 4e-4;
    double off = distance(got, want);
    EXPECT_LE(off, bound) << op;
    RecordProperty(op, std::to_string(off));
  }

  void compare_cache_and_codes() {
    std::vector<uint8_t> latent(latent_bytes), index(index_bytes);
    gpu->download(latent.data(), dev.kv.latent, latent.size());
    gpu->download(index.data(), dev.kv.index, index.size());
    auto differing = [](const std::vector<uint8_t>& got, const std::byte* want) {
      int64_t n = 0;
      for (size_t i = 0; i < got.size(); ++i) n += got[i] != static_cast<uint8_t>(want[i]);
      return n;
    };
    // A normed value that rounds the other way changes a byte or two, a rotated one up to 128.
    int64_t tokens = static_cast<int64_t>(positions.size());
    EXPECT_LE(differing(latent, host.kv.latent), 4 + tokens * 4);
    EXPECT_LE(differing(index, host.kv.index), 128 + tokens * 16);
    gpu->upload(dev.kv.latent, host.kv.latent, latent.size());
    gpu->upload(dev.kv.index, host.kv.index, index.size());
    std::vector<uint8_t> codes(host.index_q8.size() * size_of(host.index_q8.dtype));
    gpu->download(codes.data(), dev.index_q8.data, codes.size());
    EXPECT_EQ(std::memcmp(codes.data(), host.index_q8.data, codes.size()), 0) << "index queries";
  }
};

TEST_F(OpByOp, SmallDimsFp8Mixed) {
  prepare(Numerics::fp8, kSmall, Form::mixed);
  compare();
}
TEST_F(OpByOp, SmallDimsFp8Decode) {
  prepare(Numerics::fp8, kSmall, Form::decode);
  compare();
}
TEST_F(OpByOp, SmallDimsBf16Mixed) {
  prepare(Numerics::bf16, kSmall, Form::mixed);
  compare();
}
TEST_F(OpByOp, SmallDimsFp8DenseAttention) {
  prepare(Numerics::fp8, kSmall, Form::mixed, {}, /*sparse=*/false);
  compare();
}
TEST_F(OpByOp, SmallDimsBf16Expanded) {
  prepare(Numerics::bf16, kSmall, Form::expanded);
  compare();
}
TEST_F(OpByOp, SmallDimsBf16ExpandedDense) {
  prepare(Numerics::bf16, kSmall, Form::expanded, {}, /*sparse=*/false);
  compare();
}
TEST_F(OpByOp, SmallDimsBatchInvariant) {
  prepare(Numerics::fp8, kSmall, Form::mixed, {}, true, true);
  compare();
}
TEST_F(OpByOp, RealDimsFp8Decode) {
  prepare(Numerics::fp8, kReal, Form::decode);
  compare();
}
TEST_F(OpByOp, RealDimsBf16Decode) {
  prepare(Numerics::bf16, kReal, Form::decode);
  compare();
}

// The bytes of everything a layer leaves behind.
class WholeLayer : public OpsTest {
 protected:
  using Results = std::map<std::string, std::vector<uint8_t>>;
  Results results() {
    Results all;
    auto take = [&](const char* name, const void* from, size_t bytes) {
      all[name].resize(bytes);
      gpu->download(all[name].data(), from, bytes);
    };
    for (const auto& [name, t] : {std::pair<const char*, Tensor>{"attended", dev.attended},
                                  {"update", dev.update},
                                  {"normed", dev.normed},
                                  {"logits", dev.logits},
                                  {"picked", dev.picked},
                                  {"expert ids", dev.ids}})
      if (!t.empty()) take(name, t.data, static_cast<size_t>(t.size()) * size_of(t.dtype));
    take("latent rows", dev.kv.latent, latent_bytes);
    take("index rows", dev.kv.index, index_bytes);
    return all;
  }
  static void expect_same(const Results& want, const Results& got) {
    for (const auto& [name, bytes] : want) {
      const auto& other = got.at(name);
      size_t differing = 0, first = bytes.size();
      for (size_t i = 0; i < bytes.size(); ++i)
        if (bytes[i] != other[i]) {
          ++differing;
          first = std::min(first, i);
        }
      EXPECT_EQ(differing, 0u) << name << ": of " << bytes.size() << " bytes, from " << first;
    }
  }
  void reset_cache() {
    gpu->upload(dev.kv.latent, latent_start.data(), latent_bytes);
    gpu->upload(dev.kv.index, index_start.data(), index_bytes);
  }
  static void ignore(const char*, Tensor Layer::*) {}
};

// Copies between the ops change which kernels start while the one before them still runs, and with
// that what a missing wait would let them see.
TEST_F(WholeLayer, RunsAgainToTheSameBits) {
  prepare(Numerics::fp8, kReal, Form::mixed);
  run_layer(*gpu, dev, ignore);
  const Results first = results();
  Buffer copy(size_t{64} << 20, MemoryKind::device);
  cudaStream_t stream = static_cast<cudaStream_t>(gpu->stream());
  for (const std::string after : {"nothing", "rms_norm", "q_b", "picked", "attended", "ids"})
    for (int run = 0; run < 40 && !HasFailure(); ++run) {
      reset_cache();
      run_layer(*gpu, dev, [&](const char* op, Tensor Layer::*result) {
        if (op != after) return;
        const Tensor& t = dev.*result;
        FATHOM_CUDA(cudaMemcpyAsync(copy.data(), t.data,
                                    static_cast<size_t>(t.size()) * size_of(t.dtype),
                                    cudaMemcpyDeviceToDevice, stream));
      });
      SCOPED_TRACE("run " + std::to_string(run) + ", a copy after " + after);
      expect_same(first, results());
    }
}

TEST_F(WholeLayer, FusedPositionsChangeNothing) {
  prepare(Numerics::fp8, kSmall, Form::mixed);
  run_layer(*gpu, dev, ignore);
  const Results fused = results();
  reset_cache();
  CudaSettings apart;
  apart.fuse_positions = apart.dependent_launch = false;
  gpu = make_cuda_ops(numerics_, workload, apart);
  run_layer(*gpu, dev, ignore);
  expect_same(fused, results());
}

TEST_F(WholeLayer, RecordedStepServesOtherPositions) {
  prepare(Numerics::fp8, kSmall, Form::decode);
  auto other_step = [&] {
    for (int t = 0; t < live; ++t) positions[t] = positions[t] > 60 ? positions[t] - 7 : 3 + t;
    for (int t = 0; t < live; ++t) ids[t] = static_cast<int32_t>((ids[t] * 31 + 7) % d.vocab);
  };
  cudaStream_t stream = static_cast<cudaStream_t>(gpu->stream());
  run_layer(*gpu, dev, ignore);  // loads every kernel
  const Results eager_first = results();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  FATHOM_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  run_layer(*gpu, dev, ignore);
  FATHOM_CUDA(cudaStreamEndCapture(stream, &graph));
  FATHOM_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  reset_cache();
  FATHOM_CUDA(cudaGraphLaunch(exec, stream));
  expect_same(eager_first, results());  // the step that was recorded

  other_step();
  reset_cache();
  gpu->restage(inputs());
  FATHOM_CUDA(cudaGraphLaunch(exec, stream));
  const Results replayed = results();
  reset_cache();
  run_layer(*gpu, dev, ignore);
  expect_same(replayed, results());  // a replay with other inputs
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

TEST_F(WholeLayer, BatchInvariantTokensDoNotSeeEachOther) {
  prepare(Numerics::fp8, kSmall, Form::mixed, {}, true, true);
  run_layer(*gpu, dev, ignore);
  std::vector<std::byte> all_memory, one_memory;
  Tensor all = fetched(dev.update, all_memory);
  // The first token alone: same position, same cache.
  reset_cache();
  positions.resize(1);
  sequence_of.resize(1);
  ids.resize(1);
  spans.resize(1);
  logit_rows = {0};
  live = 1;
  Layer whole = dev;
  for (Tensor Layer::*m :
       {&Layer::residual, &Layer::normed, &Layer::update, &Layer::q_low, &Layer::kv_a_out,
        &Layer::index_k_out, &Layer::weights_out, &Layer::q, &Layer::index_q, &Layer::index_q8,
        &Layer::picked, &Layer::attended, &Layer::ids, &Layer::weight, &Layer::logits})
    dev.*m = (dev.*m).slice(0, 1);
  run_layer(*gpu, dev, ignore);
  Tensor one = fetched(dev.update, one_memory);
  EXPECT_EQ(std::memcmp(one.data, all.data, static_cast<size_t>(d.hidden) * 2), 0);
  dev = whole;
}

TEST_F(WholeLayer, CodesOfOverwrittenRowsAreNotUsedAgain) {
  prepare(Numerics::fp8, kSmall, Form::decode);
  gpu->begin_step(inputs());
  const int64_t t = static_cast<int64_t>(positions.size());
  std::vector<Bf16> x = random_bf16(static_cast<size_t>(t) * d.hidden, 77);
  gpu->upload(dev.residual.data, x.data(), x.size() * 2);
  gpu->rms_norm(dev.normed, dev.residual, dev.norm, 1e-6f);
  gpu->linear(dev.update.columns(0, 128), dev.normed, dev.index_k);
  // Other values in the same memory, written by an op that makes no codes.
  std::vector<int32_t> reversed(t);
  for (int64_t i = 0; i < t; ++i) reversed[i] = static_cast<int32_t>(t - 1 - i);
  DeviceArray<int32_t> rows(reversed);
  gpu->gather_rows(dev.normed, dev.residual, {rows.data(), static_cast<size_t>(t)});
  gpu->linear(dev.index_k_out, dev.normed, dev.index_k);
  // The same rows somewhere else, never quantised before.
  gpu->gather_rows(dev.update, dev.residual, {rows.data(), static_cast<size_t>(t)});
  gpu->linear(dev.kv_a_out.columns(0, 128), dev.update, dev.index_k);
  std::vector<std::byte> a, b;
  Tensor stale = fetched(dev.index_k_out, a), fresh = fetched(dev.kv_a_out, b);
  for (int64_t r = 0; r < t; ++r)
    EXPECT_EQ(std::memcmp(stale.row<Bf16>(r), fresh.row<Bf16>(r), 256), 0) << r;
}

TEST_F(WholeLayer, PicksAreTheBestOfTheOpsOwnScores) {
  prepare(Numerics::fp8, kSmall, Form::mixed);
  run_layer(*gpu, dev, ignore);
  const StepInputs in = gpu->begin_step(inputs());
  const int64_t t = static_cast<int64_t>(positions.size());
  std::vector<int32_t> all(t);
  std::iota(all.begin(), all.end(), 0);
  DeviceArray<float> scores(static_cast<size_t>(t * kContext));
  gpu->index_scores(Tensor(scores.data(), DType::f32, {t, kContext}), all, dev.index_q8,
                    dev.weights_out, dev.kv, in.batch);
  gpu->synchronize();
  std::vector<float> s = scores.download();
  std::vector<std::byte> memory;
  Tensor picked = fetched(dev.picked, memory);
  for (int64_t row = 0; row < t; ++row) {
    std::vector<int32_t> order(positions[row] + 1);
    std::iota(order.begin(), order.end(), 0);
    const float* v = &s[row * kContext];
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return v[a] > v[b]; });
    if (static_cast<int>(order.size()) > d.topk) order.resize(d.topk);
    std::sort(order.begin(), order.end());
    order.resize(d.topk, -1);
    EXPECT_EQ(std::memcmp(order.data(), picked.row<int32_t>(row), d.topk * 4), 0) << "row " << row;
  }
}

// Plans: no GPU.

QWeight fp8_weight(uintptr_t data, uintptr_t scale, int64_t rows, int64_t cols) {
  QWeight w;
  w.data = reinterpret_cast<const void*>(data);
  w.dtype = DType::fp8_e4m3;
  w.rows = rows;
  w.cols = cols;
  w.scale = reinterpret_cast<const float*>(scale);
  w.scale_stride = cols / 128;
  return w;
}

TEST(OpsPlan, NeighbouringWeightsBecomeOneProduct) {
  // In memory: q_a [256, 384] | index_k [128, 384] | kv_a [576, 384]; asked for in another order.
  const uintptr_t code = 0x10000, scale = 0x900000;
  QWeight q_a = fp8_weight(code, scale, 256, 384);
  QWeight index_k = fp8_weight(code + 256 * 384, scale + 2 * 3 * 4, 128, 384);
  QWeight kv_a = fp8_weight(code + 384 * 384, scale + 3 * 3 * 4, 576, 384);
  const Projection asked[] = {{{}, kv_a}, {{}, q_a}, {{}, index_k}};
  ProjectionGroup groups[3];
  ASSERT_EQ(group_projections(asked, groups), 1);
  EXPECT_EQ(groups[0].weight.rows, 960);
  EXPECT_EQ(groups[0].weight.data, q_a.data);
  ASSERT_EQ(groups[0].count, 3);
  EXPECT_EQ(groups[0].parts[0], &asked[1]);
  EXPECT_EQ(groups[0].parts[1], &asked[2]);
  EXPECT_EQ(groups[0].parts[2], &asked[0]);

  // Scales elsewhere, a hole, or a border inside a scale block: apart.
  QWeight strange = index_k;
  strange.scale += 1;
  const Projection apart[] = {{{}, q_a}, {{}, strange}};
  EXPECT_EQ(group_projections(apart, groups), 2);
  QWeight odd = fp8_weight(code, scale, 192, 384);
  QWeight behind = fp8_weight(code + 192 * 384, scale + 2 * 3 * 4, 128, 384);
  const Projection border[] = {{{}, odd}, {{}, behind}};
  EXPECT_EQ(group_projections(border, groups), 2);
}

TEST(OpsPlan, ContextLimitsCoverTheContextAndStayFew) {
  EXPECT_EQ(context_limit(1, 2048, 163840), 2048);
  EXPECT_EQ(context_limit(2048, 2048, 163840), 2048);
  EXPECT_EQ(context_limit(2049, 2048, 163840), 4096);
  EXPECT_EQ(context_limit(140000, 2048, 163840), 163840);
  EXPECT_EQ(context_limit(100, 2048, 512), 512);
  EXPECT_EQ(context_limit(257, 256, 3072), 1024);
  EXPECT_EQ(context_limit(5000, 0, 163840), 8192);
  for (int64_t c = 1; c <= 163840; c = c * 5 / 4 + 1) EXPECT_GE(context_limit(c, 2048, 163840), c);
}

TEST(OpsPlan, ScoreTilesFitTheBudget) {
  EXPECT_EQ(score_tile(512 << 20, 131072, 4096), 1024);
  EXPECT_EQ(score_tile(512 << 20, 4096, 100), 100);
  EXPECT_EQ(score_tile(1000, 131072, 4096), 1);  // never less than one row
}

TEST(OpsPlan, AttentionRunsFollowSpans) {
  using F = AttentionForm;
  const AttentionSpan spans[] = {{0, 1, 0, F::absorbed},
                                 {1, 3, 1, F::absorbed},
                                 {3, 40, 2, F::expanded},
                                 {40, 3000, 2, F::absorbed},
                                 {3000, 3001, 3, F::absorbed}};
  std::vector<AttentionRun> runs = attention_runs(spans, F::absorbed, false);
  ASSERT_EQ(runs.size(), 4u);
  EXPECT_EQ(runs[0].end, 3);
  EXPECT_TRUE(runs[0].decode);
  EXPECT_EQ(runs[1].begin, 40);
  EXPECT_EQ(runs[1].end, 40 + kPrefillTile);
  EXPECT_FALSE(runs[1].decode);
  EXPECT_EQ(runs[2].end, 3000);
  EXPECT_TRUE(runs[3].decode);
  for (const AttentionRun& r : attention_runs(spans, F::absorbed, true)) EXPECT_TRUE(r.decode);
  EXPECT_EQ(attention_runs(spans, F::expanded, false).size(), 1u);
}

TEST(OpsPlan, MemoryGrowsWithTheStepAndRefusesOtherDims) {
  Workload w;
  w.context = 32768;
  w.hidden = 7168;
  w.max_intermediate = 18432;
  w.expert_intermediate = 2048;
  w.heads = 128;
  w.nope = w.value = w.index_dim = 128;
  w.rope = 64;
  w.latent = 512;
  w.q_rank = 1536;
  w.index_heads = 64;
  w.index_topk = 2048;
  w.experts = 256;
  w.experts_per_token = 8;
  w.vocab = 129280;
  w.sequences = 64;
  w.step_tokens = 512;
  size_t few = cuda_ops_bytes(Numerics::fp8, w);
  w.step_tokens = 4096;
  size_t many = cuda_ops_bytes(Numerics::fp8, w);
  EXPECT_GT(many, few);
  EXPECT_LT(many, size_t{4} << 30);
  EXPECT_THROW(cuda_ops_bytes(Numerics::exact, w), Error);
  w.latent = 256;
  EXPECT_THROW(cuda_ops_bytes(Numerics::fp8, w), Error);
}

}  // namespace
}  // namespace fathom::cuda
