// The memory of the cache: for every layer an array of latent rows and one of indexer rows, cut
// into pages that all layers share. A page number means the same page in every layer; its latent
// and index rows are allocated and freed together.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/batch_view.h"
#include "model/config.h"
#include "tensor/buffer.h"

namespace fathom {

constexpr std::string_view name_of(KvFormat f) {
  return f == KvFormat::f32 ? "f32" : f == KvFormat::bf16 ? "bf16" : "fp8";
}

// The cache format for these numerics if the user names none.
constexpr KvFormat default_kv_format(Numerics n) {
  return n == Numerics::exact  ? KvFormat::f32
         : n == Numerics::bf16 ? KvFormat::bf16
                               : KvFormat::fp8;
}

// The formats of cache rows, and the bytes per token that follow. The format of index rows depends
// on the numerics alone, because it is part of how scores are computed.
struct KvShape {
  int layers = 0;  // MTP layers, when kept, come last
  int latent = 0, rope = 0, index_dim = 0;
  KvFormat latent_format = KvFormat::bf16;
  KvFormat index_format = KvFormat::bf16;
  bool ue8m0 = true;

  int64_t latent_stride() const { return latent_row_bytes(latent_format, latent, rope); }
  int64_t index_stride() const { return index_dim ? index_row_bytes(index_format, index_dim) : 0; }
  int64_t bytes_per_token() const { return layers * (latent_stride() + index_stride()); }
  int64_t bytes_per_page() const { return bytes_per_token() * kPageRows; }
};

// `with_mtp`: with layers for multi-token prediction (speculative decoding).
KvShape kv_shape(const Config& config, Numerics numerics, std::optional<KvFormat> format,
                 bool with_mtp);

// Pages that hold positions [0, tokens).
constexpr int64_t pages_for(int64_t tokens) { return (tokens + kPageRows - 1) / kPageRows; }

class KvPool {
 public:
  // Reserves the address space; the system provides memory when a page is first written. Throws
  // Error when that fails.
  KvPool(const KvShape& shape, int pages, MemoryKind kind = MemoryKind::host);

  std::span<const KvView> layers() const { return views_; }
  const KvShape& shape() const { return shape_; }
  int pages() const { return pages_; }

  // Where the rows of a page lie: one block per layer, `pitch` bytes apart.
  struct Blocks {
    std::byte* at = nullptr;
    size_t bytes = 0, pitch = 0;
    int layers = 0;
  };
  std::array<Blocks, 2> blocks(int32_t page) const;
  // Copies a page from or to one piece of shape().bytes_per_page() bytes, in the order of blocks().
  // Only for a pool in host memory.
  void read_page(int32_t page, std::byte* to) const;
  void write_page(int32_t page, const std::byte* from);
  // Copies pages [from, from + count) to those from `to` on, within the pool's memory.
  void copy_pages(int32_t from, int32_t to, int count);
  int64_t bytes() const { return static_cast<int64_t>(buffer_.size()); }

 private:
  KvShape shape_;
  int pages_;
  MemoryKind kind_;
  Buffer buffer_;
  std::vector<KvView> views_;
};

}  // namespace fathom
