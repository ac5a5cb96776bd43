#include "bench/cuda/mla_decode_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/attention/mla.h"
#include "numerics/cache_rows.h"

namespace fathom::cuda {
namespace {

constexpr int kTopk = 2048;
constexpr int kLatent = KernelDims::kLatent, kRope = KernelDims::kRope;
constexpr double kRowValues = 2 * kLatent + kRope;  // products of a (head, key) pair

Buffer device(int64_t bytes) { return Buffer(static_cast<size_t>(bytes), MemoryKind::device); }

template <class T>
Buffer upload(const std::vector<T>& v) {
  Buffer b = device(static_cast<int64_t>(v.size() * sizeof(T)));
  FATHOM_CUDA(cudaMemcpy(b.data(), v.data(), b.size(), cudaMemcpyHostToDevice));
  return b;
}
const int32_t* ints(const Buffer& b) { return reinterpret_cast<const int32_t*>(b.data()); }

// Sequences of equal length whose pages lie scattered over one pool; each token of each input set
// picks its own positions, one at random of every context / 2048.
struct Pool {
  int sequences;
  int64_t context;
  bool fp8;
  Buffer rows, tables, sequence_of, positions, picked;

  Pool(BenchContext& bench, int count, int64_t length, bool fp8_rows, int picks)
      : sequences(count), context(length), fp8(fp8_rows) {
    cudaStream_t stream = bench.launch().stream;
    const int64_t pages = context / kPageRows, all = pages * sequences;
    const int64_t bytes = latent_row_bytes(fp8 ? KvFormat::fp8 : KvFormat::bf16, kLatent, kRope);
    rows = device(all * kPageRows * bytes);
    if (fp8) {
      fill_fp8(reinterpret_cast<uint8_t*>(rows.data()), all * kPageRows * bytes, 1, stream);
      // Scales and rotary part: these bits are 2^-7 as float32 and small numbers as bf16.
      std::vector<uint32_t> tail(36, 0x3C000000u);
      Buffer one = upload(tail);
      for (int64_t r = 0, step = 1; r < all * kPageRows; r += step) {
        step = r == 0 ? 1 : std::min(r, all * kPageRows - r);  // doubles the part that is filled
        const void* from = r == 0 ? static_cast<const void*>(one.data()) : rows.data() + kLatent;
        FATHOM_CUDA(cudaMemcpy2DAsync(rows.data() + r * bytes + kLatent, static_cast<size_t>(bytes),
                                      from, static_cast<size_t>(r == 0 ? 144 : bytes), 144,
                                      static_cast<size_t>(step), cudaMemcpyDeviceToDevice, stream));
      }
      FATHOM_CUDA(cudaStreamSynchronize(stream));
    } else {
      fill_bf16(rows.data(), all * kPageRows * bytes / 2, 1.0f, 1, stream);
    }
    std::vector<int32_t> table(static_cast<size_t>(all)), sequence, position, choice;
    // An odd stride visits every page of a power-of-two pool once.
    for (int64_t i = 0; i < all; ++i)
      table[static_cast<size_t>(i)] =
          static_cast<int32_t>(static_cast<uint64_t>(i) * 2654435761u % static_cast<uint64_t>(all));
    for (int t = 0; t < 2 * sequences; ++t) {
      sequence.push_back(t % sequences);
      position.push_back(static_cast<int32_t>(context - 1));
    }
    uint64_t state = 88172645463325252u;
    const int64_t stretch = context / kTopk;
    for (int64_t i = 0; i < int64_t{picks} * kTopk; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      choice.push_back(static_cast<int32_t>(
          i % kTopk * stretch +
          static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(stretch))));
    }
    tables = upload(table);
    sequence_of = upload(sequence);
    positions = upload(position);
    if (picks > 0) picked = upload(choice);
  }

  // Takes tokens from `first` on, cycling through the sequences.
  LatentCache cache(int first) const {
    LatentCache c;
    c.rows = rows.data();
    c.fp8 = fp8;
    c.page_tables = ints(tables);
    c.max_pages = static_cast<int>(context / kPageRows);
    c.sequence_of = ints(sequence_of) + first;
    c.positions = ints(positions) + first;
    return c;
  }
};

struct Row {
  int heads, batch;
  double anchor_us;
};

std::string shape_of(const Row& row, int64_t context, bool sparse) {
  return fmt::format("{} heads, batch {} at {}K, {}", row.heads, row.batch, context / 1024,
                     sparse ? "sparse fp8" : "dense bf16");
}

void bench_row(BenchContext& bench, const Pool& pool, const Row& row, bool sparse) {
  const std::string shape = shape_of(row, pool.context, sparse);
  if (!bench.wanted("mla decode", shape)) return;
  const int batch = row.batch, heads = row.heads;
  const int64_t rows = int64_t{batch} * heads;
  Buffer q = device(rows * kLatent * 2), rope = device(rows * kRope * 2),
         out = device(rows * kLatent * 2);
  fill_bf16(q.data(), rows * kLatent, 0.3f, 2, bench.launch().stream);
  fill_bf16(rope.data(), rows * kRope, 0.3f, 3, bench.launch().stream);
  Buffer work =
      device(static_cast<int64_t>(mla_decode_workspace(batch, heads, sparse ? kTopk : 0,
                                                       pool.context, bench.launch().sms, false) +
                                  16));
  const double keys = sparse ? kTopk : static_cast<double>(pool.context);
  const double row_bytes = pool.fp8 ? sizeof(LatentRowFp8) : 2.0 * (kLatent + kRope);
  const int sets =
      std::max(1, std::min(bench.sets_for(batch * keys * row_bytes), pool.sequences / batch));
  double us = bench.time(sets, [&](const Launch& l, int set) {
    MlaParams p;
    p.q_latent = reinterpret_cast<const Bf16*>(q.data());
    p.q_rope = reinterpret_cast<const Bf16*>(rope.data());
    p.q_rope_token_stride = int64_t{heads} * kRope;
    p.q_rope_head_stride = kRope;
    p.cache = pool.cache(set * batch);
    if (sparse) p.picked = ints(pool.picked) + int64_t{set} * batch * kTopk;
    p.topk = sparse ? kTopk : 0;
    p.tokens = batch;
    p.heads = heads;
    p.scale = 0.13523f;
    p.out = reinterpret_cast<Bf16*>(out.data());
    p.max_context = pool.context;
    Launch own = l;
    own.workspace = work.data();
    own.workspace_bytes = work.size();
    mla_decode(p, own);
  });
  bench.report(
      "mla decode", shape, us, 2.0 * static_cast<double>(rows) * keys * kRowValues,
      BenchContext::Math::bf16,
      batch * keys * (row_bytes + (sparse ? 4 : 0)) + 2.0 * static_cast<double>(rows) * kRowValues,
      row.anchor_us);
}

// Filling the pool takes seconds, so it is done only if a selected row needs it.
void bench_rows(BenchContext& bench, const std::vector<Row>& rows, int sequences, int64_t context,
                bool sparse) {
  auto wanted = [&](const Row& r) {
    return bench.wanted("mla decode", shape_of(r, context, sparse));
  };
  if (std::none_of(rows.begin(), rows.end(), wanted)) return;
  Pool pool(bench, sequences, context, sparse, sparse ? sequences : 0);
  for (const Row& r : rows) bench_row(bench, pool, r, sparse);
}

}  // namespace

void bench_mla_decode(BenchContext& bench) {
  bench_rows(bench,
             {{128, 1, 17.9},
              {128, 4, 20.3},
              {128, 16, 40.3},
              {128, 64, 93.6},
              {128, 128, 184.5},
              {64, 1, 18.0},
              {64, 16, 32.7},
              {64, 64, 80.1},
              {64, 128, 117.3},
              {16, 1, 0},
              {16, 16, 0},
              {16, 64, 0},
              {16, 128, 0}},
             128, 32768, true);
  bench_rows(bench, {{128, 1, 42.9}, {128, 16, 251.1}, {128, 64, 998.6}, {16, 64, 801.8}}, 64,
             32768, false);
}

}  // namespace fathom::cuda
