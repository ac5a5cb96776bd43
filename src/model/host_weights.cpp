#include "model/host_weights.h"

#include <cstring>
#include <vector>

#include "kernels/cpu/words.h"

namespace fathom {
namespace {

constexpr int64_t kLine = 64;               // bytes of a cache line
constexpr int64_t kMostCopied = 1LL << 30;  // in well under a second
constexpr int64_t kMostShare = 8;           // at most an eighth of the available memory
constexpr int64_t kMostShareOfWords = 16;   // they are a second copy

int64_t lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

template <class F>
void for_mlp(MlpWeights& w, F& f) {
  for (QWeight* m : {&w.gate, &w.up, &w.down}) f(*m);
}

// Calls f(QWeight&) for every matrix, in the order in which a step reads them.
template <class F>
void for_each_matrix(Weights& w, F&& f) {
  f(w.embed);
  for_each_layer(w, [&](LayerWeights& layer) {
    AttentionWeights& a = layer.attention;
    for (QWeight* m : {&a.q_a, &a.kv_a, &a.indexer.k, &a.indexer.head_weight, &a.q_b,
                       &a.indexer.q_b, &a.kv_up.kv_b, &a.o})
      f(*m);
    for_mlp(layer.mlp, f);
    f(layer.moe.gate);
    for (MlpWeights& expert : layer.moe.experts) for_mlp(expert, f);
    for_mlp(layer.moe.shared, f);
  });
  f(w.head);
  if (w.mtp) f(w.mtp->combine);
}

int64_t block_rows(const QWeight& w) { return (w.rows + w.row_offset + kFp8Block - 1) / kFp8Block; }
int64_t block_columns(const QWeight& w) { return (w.cols + kFp8Block - 1) / kFp8Block; }

int64_t code_bytes(const QWeight& w) {
  return w.rows * w.cols * static_cast<int64_t>(size_of(w.dtype));
}
int64_t scale_bytes(const QWeight& w) {
  return w.scale ? block_rows(w) * block_columns(w) * static_cast<int64_t>(sizeof(float)) : 0;
}
int64_t bytes_of_matrix(const QWeight& w) {
  return w.empty() ? 0 : lines(code_bytes(w)) + lines(scale_bytes(w));
}

// `rows` rows of `bytes` each, `stride` bytes apart, one behind the other.
void copy_rows(std::byte* to, const void* from, int64_t rows, int64_t bytes, int64_t stride) {
  const std::byte* row = static_cast<const std::byte*>(from);
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(to + r * bytes, row + r * stride, static_cast<size_t>(bytes));
}

// Copies a matrix to `to` and makes it a view of the copy.
void move_matrix(QWeight& w, std::byte* to) {
  const int64_t size = static_cast<int64_t>(size_of(w.dtype));
  copy_rows(to, w.data, w.rows, w.cols * size, w.stride() * size);
  w.data = to;
  w.columns_stored = 0;
  if (!w.scale) return;
  std::byte* scales = to + lines(code_bytes(w));
  const int64_t columns = block_columns(w), word = sizeof(float);
  copy_rows(scales, w.scale, block_rows(w), columns * word, w.scale_stride * word);
  w.scale = reinterpret_cast<const float*>(scales);
  w.scale_stride = columns;
}

int64_t bytes_of_words(const Weights& weights) {
  Weights views = weights;
  int64_t bytes = 0;
  for_each_matrix(views, [&](const QWeight& w) { bytes += words_bytes(w); });
  return bytes - words_bytes(weights.embed);
}

int64_t bytes_of(const Weights& weights) {
  Weights views = weights;
  int64_t bytes = 0;
  for_each_matrix(views, [&](const QWeight& w) { bytes += bytes_of_matrix(w); });
  return bytes;
}

}  // namespace

bool copy_pays(const Weights& weights, int64_t available) {
  const int64_t bytes = bytes_of(weights);
  return bytes <= kMostCopied && bytes <= available / kMostShare;
}

Buffer copy_matrices(Weights& weights) {
  Buffer memory(static_cast<size_t>(bytes_of(weights)));
  std::byte* to = memory.data();
  for_each_matrix(weights, [&](QWeight& w) {
    if (w.empty()) return;
    const int64_t bytes = bytes_of_matrix(w);
    move_matrix(w, to);
    to += bytes;
  });
  return memory;
}

bool words_pay(const Weights& weights, int64_t available) {
  return bytes_of_words(weights) <= available / kMostShareOfWords;
}

Buffer add_words(Weights& weights, ThreadPool& pool) {
  struct Place {
    QWeight* matrix;
    std::byte* memory;
  };
  std::vector<Place> places;
  Buffer memory(static_cast<size_t>(bytes_of_words(weights)));
  std::byte* to = memory.data();
  for_each_matrix(weights, [&](QWeight& w) {
    if (&w == &weights.embed) return;
    places.push_back({&w, to});
    to += words_bytes(w);
  });
  pool.parallel_dynamic(static_cast<int64_t>(places.size()), 1,
                        [&](int64_t begin, int64_t end, int) {
                          for (int64_t i = begin; i < end; ++i) {
                            const Place& place = places[static_cast<size_t>(i)];
                            add_words(*place.matrix, place.memory);
                          }
                        });
  return memory;
}

}  // namespace fathom
