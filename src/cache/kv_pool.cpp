#include "cache/kv_pool.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/gpu.h"

namespace fathom {
namespace {

// Arrays of rows start on cache lines, so that a 656-byte row straddles as few as it can.
constexpr int64_t kAlign = 64;
int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

KvShape kv_shape(const Config& config, Numerics numerics, std::optional<KvFormat> format,
                 bool with_mtp) {
  KvShape s;
  s.layers = config.layers + (with_mtp ? config.mtp_layers : 0);
  s.latent = config.latent;
  s.rope = config.rope;
  s.index_dim = config.has_indexer() ? config.index_dim : 0;
  s.latent_format = format.value_or(default_kv_format(numerics));
  s.index_format = default_kv_format(numerics);
  s.ue8m0 = config.ue8m0;
  return s;
}

KvPool::KvPool(const KvShape& shape, int pages, MemoryKind kind)
    : shape_(shape), pages_(pages), kind_(kind) {
  FATHOM_CHECK(shape.layers > 0 && pages > 0, "{} layers, {} pages", shape.layers, pages);
  // 64-bit throughout: 163,840 tokens of the real model in f32 are 28 GB, far past 2^32 bytes.
  const int64_t rows = int64_t{pages} * kPageRows;
  const int64_t latent_bytes = aligned(rows * shape.latent_stride());
  const int64_t index_bytes = aligned(rows * shape.index_stride());
  buffer_ = Buffer(static_cast<size_t>(shape.layers * (latent_bytes + index_bytes)), kind);
  std::byte* at = buffer_.data();
  for (int layer = 0; layer < shape.layers; ++layer) {
    KvView v;
    v.latent = at;
    v.index = index_bytes ? at + latent_bytes : nullptr;
    v.latent_format = shape.latent_format;
    v.index_format = shape.index_format;
    v.latent_stride = shape.latent_stride();
    v.index_stride = shape.index_stride();
    v.latent_dim = shape.latent;
    v.rope_dim = shape.rope;
    v.index_dim = shape.index_dim;
    v.ue8m0 = shape.ue8m0;
    views_.push_back(v);
    at += latent_bytes + index_bytes;
  }
}

std::array<KvPool::Blocks, 2> KvPool::blocks(int32_t page) const {
  FATHOM_CHECK(page >= 0 && page < pages_, "page {} of {}", page, pages_);
  const KvView& first = views_.front();
  // Layers are laid out alike, one behind the other.
  const auto pitch = static_cast<size_t>(bytes() / shape_.layers);
  Blocks latent{first.latent_row(int64_t{page} * kPageRows),
                static_cast<size_t>(kPageRows * shape_.latent_stride()), pitch, shape_.layers};
  Blocks index{first.index ? first.index_page(page) : nullptr,
               static_cast<size_t>(kPageRows * shape_.index_stride()), pitch, shape_.layers};
  return {latent, index};
}

void KvPool::read_page(int32_t page, std::byte* to) const {
  for (const Blocks& b : blocks(page))
    for (int layer = 0; b.bytes > 0 && layer < b.layers; ++layer, to += b.bytes)
      std::memcpy(to, b.at + static_cast<size_t>(layer) * b.pitch, b.bytes);
}

void KvPool::write_page(int32_t page, const std::byte* from) {
  for (const Blocks& b : blocks(page))
    for (int layer = 0; b.bytes > 0 && layer < b.layers; ++layer, from += b.bytes)
      std::memcpy(b.at + static_cast<size_t>(layer) * b.pitch, from, b.bytes);
}

void KvPool::copy_pages(int32_t from, int32_t to, int count) {
  FATHOM_CHECK(from >= 0 && to >= 0 && count >= 0 && std::max(from, to) + count <= pages_,
               "pages {} to {} copied to {} on, of {}", from, from + count, to, pages_);
  const int64_t rows = int64_t{count} * kPageRows;
  const auto copy = [&](std::byte* target, const std::byte* source, int64_t bytes) {
    if (kind_ == MemoryKind::device)
      copy_on_gpu(target, source, static_cast<size_t>(bytes));
    else
      std::memcpy(target, source, static_cast<size_t>(bytes));
  };
  for (const KvView& v : views_) {
    copy(v.latent_row(int64_t{to} * kPageRows), v.latent_row(int64_t{from} * kPageRows),
         rows * v.latent_stride);
    if (v.index) copy(v.index_page(to), v.index_page(from), rows * v.index_stride);
  }
}

}  // namespace fathom
