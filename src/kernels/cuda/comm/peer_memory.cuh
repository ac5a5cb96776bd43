// Loads, stores and waits on memory that GPUs share (PTX ISA, "Memory Consistency Model"): relaxed
// accesses at system scope, which no cache of a multiprocessor answers.
#pragma once

#include "kernels/cuda/comm/peer_view.h"

namespace fathom::cuda {

__device__ __forceinline__ uint4 load_shared_vector(const Bf16* p) {
  uint4 v;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
__device__ __forceinline__ void store_shared_vector(Bf16* p, uint4 v) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ uint32_t load_acquire(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
// All that this thread, and those that passed a barrier with it, wrote before is visible to whoever
// reads the value with load_acquire().
__device__ __forceinline__ void store_release(uint32_t* p, uint32_t v) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

// The host's flag lies behind the bus, so a wait looks at it now and then only.
__device__ __forceinline__ bool stopped(const PeerView& view, uint32_t tries) {
  return tries % 1024 == 0 && load_acquire(view.stop) != 0;
}

// Waits until the flag has reached `epoch`; false when the host said stop.
__device__ __forceinline__ bool wait_for(const uint32_t* flag, uint32_t epoch,
                                         const PeerView& view) {
  for (uint32_t tries = 1; static_cast<int32_t>(load_acquire(flag) - epoch) < 0; ++tries)
    if (stopped(view, tries)) return false;
  return true;
}

// One exchange of a lane in which ranks read and write each other's memory. Every thread of the CTA
// calls each method, in this order; a CTA has at least as many threads as there are ranks.
class PeerExchange {
 public:
  // Publishes `mine` and waits for the addresses of the others, whose earlier kernels have ended by
  // then. addresses: of shared memory, filled for every rank.
  __device__ __forceinline__ PeerExchange(const PeerView& view, int lane, void* mine,
                                          uint64_t (&addresses)[kMaxPeers])
      : view_(view), lane_(lane), epoch_(view.lane(lane)->epoch + 1) {
    const int other = static_cast<int>(threadIdx.x);
    bool came = true;
    if (other < view.ranks && other != view.rank) {
      PeerMail* out = view.mail(other, lane, view.rank);
      out->address = reinterpret_cast<uint64_t>(mine);
      store_release(&out->arrived, epoch_);
      const PeerMail* in = view.mail(view.rank, lane, other);
      came = wait_for(&in->arrived, epoch_, view);
      addresses[other] = *reinterpret_cast<const volatile uint64_t*>(&in->address);
    }
    if (other == view.rank) addresses[other] = reinterpret_cast<uint64_t>(mine);
    ok_ = __syncthreads_and(came) != 0;
  }

  // Whether the others have come. If not, nothing may be read or written there.
  __device__ __forceinline__ bool ok() const { return ok_; }

  // Waits until what every rank writes to this one has arrived, and every rank has read what it
  // reads here.
  __device__ __forceinline__ void finish() {
    __syncthreads();
    const int other = static_cast<int>(threadIdx.x);
    if (other < view_.ranks && other != view_.rank) {
      store_release(&view_.mail(other, lane_, view_.rank)->finished, epoch_);
      wait_for(&view_.mail(view_.rank, lane_, other)->finished, epoch_, view_);
    }
    if (other == 0) view_.lane(lane_)->epoch = epoch_;
    __syncthreads();
  }

 private:
  const PeerView& view_;
  const int lane_;
  const uint32_t epoch_;
  bool ok_ = false;
};

}  // namespace fathom::cuda
