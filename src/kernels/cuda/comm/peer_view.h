// Memory through which the GPUs of one machine exchange rows, as their kernels see it.
//
// The ranks are threads of one process and their GPUs read and write each other's memory, so an
// address is all that a rank needs of another. Each rank has one block of memory, laid out alike:
//
//   lanes     state of lane b (CTA b of every exchange) that is kept between exchanges
//   mail      for each lane and each rank that writes there: flags and an address
//   received  rows of one-shot sums: [3 buffers, source rank, lane] of kLaneBytes each
//
// Lane b of a rank deals with lane b of the others alone, so lanes need no barrier among
// themselves. All ranks call the same exchanges in the same order with the same sizes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "numerics/bf16.h"
#include "numerics/host_device.h"

namespace fathom::cuda {

inline constexpr int kMaxPeers = 16;  // GPUs that one machine links to each other
inline constexpr int kMaxPeerLanes = 256;
inline constexpr int kReceiveBuffers = 3;
inline constexpr int64_t kLaneBytes = 32 << 10;
// Bytes that each of more than two ranks sends in a one-shot sum at most: beyond, a two-shot sum,
// which sends less but goes over the link twice, should be faster. Between two ranks it sends as
// much. (Estimated from two ranks' times: docs/parallel.md.)
inline constexpr int64_t kOneShotBytes = int64_t{2} << 20;

// Kept by a lane for itself.
struct alignas(16) PeerLane {
  uint32_t sums = 0;             // one-shot sums made
  uint32_t rows = 0, width = 0;  // of the last of them: its packets are still to be cleared
  uint32_t epoch = 0;            // of the last exchange with flags
};

// Written by one rank for one lane of another.
struct alignas(16) PeerMail {
  uint64_t address = 0;   // the tensor of the rank that wrote this, to be read or written
  uint32_t arrived = 0;   // epoch of the exchange that it has reached: `address` is valid
  uint32_t finished = 0;  // epoch of the exchange whose reads and writes it has completed
};

struct PeerView {
  int rank = 0, ranks = 1;
  int lanes = 0;                      // CTAs of an exchange: all of them run at once on every GPU
  std::byte* memory[kMaxPeers] = {};  // of each rank
  const uint32_t* stop = nullptr;     // word of the host; not 0: every wait ends

  FATHOM_HD PeerLane* lane(int b) const { return reinterpret_cast<PeerLane*>(memory[rank]) + b; }
  // What `from` writes for lane b of `to`.
  FATHOM_HD PeerMail* mail(int to, int b, int from) const {
    return reinterpret_cast<PeerMail*>(memory[to] + kMaxPeerLanes * sizeof(PeerLane)) +
           b * kMaxPeers + from;
  }
  // Row `row` of a sum of rows of n values, as `from` sends it to `to`. It belongs to lane
  // row % lanes.
  FATHOM_HD Bf16* received(int to, int buffer, int from, int row, int n) const {
    const int64_t place = (int64_t{buffer} * ranks + from) * lanes + row % lanes;
    auto* rows = reinterpret_cast<Bf16*>(memory[to] + received_at() + place * kLaneBytes);
    return rows + int64_t{row / lanes} * n;
  }
  // Whether a sum may be one-shot, and whether it should.
  FATHOM_HD bool fits_one_shot(int rows, int n) const {
    return int64_t{(rows + lanes - 1) / lanes} * n * int64_t{sizeof(Bf16)} <= kLaneBytes;
  }
  FATHOM_HD bool is_small(int rows, int n) const {
    return fits_one_shot(rows, n) &&
           (ranks == 2 || int64_t{ranks - 1} * rows * n * int64_t{sizeof(Bf16)} <= kOneShotBytes);
  }
  FATHOM_HD static constexpr size_t received_at() {
    return kMaxPeerLanes * (sizeof(PeerLane) + kMaxPeers * sizeof(PeerMail));
  }
  FATHOM_HD size_t bytes() const {
    return received_at() +
           kReceiveBuffers * static_cast<size_t>(ranks) * static_cast<size_t>(lanes) * kLaneBytes;
  }
};
static_assert(sizeof(PeerLane) == 16 && sizeof(PeerMail) == 16);

}  // namespace fathom::cuda
