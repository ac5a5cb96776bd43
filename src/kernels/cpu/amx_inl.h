// Tile registers (AMX): shapes, loads, stores, products. Included inside anonymous namespaces only,
// after amx_state.h.
// The intrinsics of GCC 12 do not say that a load reads memory, so a store in front of it could be
// moved after it; these functions say so.

constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;
constexpr int kTileBytes = kTileRows * kTileRowBytes;
constexpr int kTilePairs = 16;    // of bf16 values that one product sums
constexpr int kTileColumns = 32;  // the same in values

// What LDTILECFG reads: rows and bytes of a row of each of the 8 registers.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
  // `number` stands for these shapes.
  void apply(uint32_t number) const {
    asm volatile("ldtilecfg %0" ::"m"(*this));
    current_tile_shapes = number;
  }
};

// Back to the state in which a thread costs nothing extra to switch.
inline void tile_release() {
  asm volatile("tilerelease");
  current_tile_shapes = 0;
}

template <int kTile>
[[gnu::always_inline]] inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kTile>
[[gnu::always_inline]] inline void tile_load(const void* base, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
[[gnu::always_inline]] inline void tile_store(void* base, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(kTile) : "memory");
}
// sum[m][n] += over pairs p: a[m][p] . b[p][n]. Even and odd elements are summed apart, each from
// zero in ascending order, then added to one another and to `sum`; subnormal numbers count as zero.
template <int kSum, int kA, int kB>
[[gnu::always_inline]] inline void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
}
