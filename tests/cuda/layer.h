// One layer of the model with everything it needs, at the bundled model's dims or V3.2's, run on
// the GPU's ops or on the reference.
#pragma once

#include <map>
#include <numeric>
#include <string>

#include "kernels/cpu_ops.h"
#include "kernels/cuda/cuda_ops.h"
#include "numerics/rope.h"
#include "twins.h"

namespace fathom::cuda {

struct Dims {
  int hidden, q_rank, heads, index_heads, topk, dense, expert, experts, per_token, groups;
  int64_t vocab;
};
inline constexpr Dims kSmall = {384, 256, 4, 8, 256, 1024, 128, 16, 4, 4, 4096};
// V3.2's, but fewer experts and words: those dims have tests of their own.
inline constexpr Dims kReal = {7168, 1536, 128, 64, 2048, 2048, 2048, 8, 4, 4, 4096};

inline constexpr int64_t kContext = 3072;
inline constexpr int kPages = 160, kMaxPages = kContext / kPageRows;

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
    ops.add_rms_norm(w.normed, w.residual, w.update, w.norm, 1e-6f);
    after("residual", &Layer::residual);
    after("add_rms_norm", &Layer::normed);
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
                                  {"residual", dev.residual},
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

}  // namespace fathom::cuda
