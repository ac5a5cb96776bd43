#include "kernels/gpu.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/bench/kernel_bench.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom {

GpuInfo find_gpu() {
  GpuInfo info;
  int devices = 0;
  cudaError_t e = cudaGetDeviceCount(&devices);
  if (e != cudaSuccess || devices == 0) {
    cudaGetLastError();  // not an error of whatever runs next
    info.why_not = e == cudaErrorNoDevice || devices == 0 ? "no NVIDIA GPU was found"
                   : e == cudaErrorInsufficientDriver
                       ? "the NVIDIA driver is missing or older than this build of CUDA needs"
                       : cudaGetErrorString(e);
    return info;
  }
  cudaDeviceProp p{};
  e = cudaGetDeviceProperties(&p, 0);
  if (e != cudaSuccess) {
    cudaGetLastError();
    info.why_not = cudaGetErrorString(e);
    return info;
  }
  info.name = p.name;
  info.memory = static_cast<int64_t>(p.totalGlobalMem);
  info.processors = p.multiProcessorCount;
  if (p.major != 9 || p.minor != 0) {
    info.why_not =
        fmt::format("{} has compute capability {}.{}: the kernels are built for 9.0 (H100, H200)",
                    p.name, p.major, p.minor);
    return info;
  }
  info.free = static_cast<int64_t>(device_memory_free());
  info.usable = info.free > 0;
  if (!info.usable) info.why_not = fmt::format("{} gives no memory", p.name);
  return info;
}

namespace {

constexpr int kDefaultReaders = 8;

// One reader: two pinned buffers, so that one is filled while the other travels.
class Reader {
 public:
  Reader() {
    FATHOM_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (Slot& s : slots_) {
      s.memory = Buffer(kUploadPiece, MemoryKind::pinned);
      FATHOM_CUDA(cudaEventCreateWithFlags(&s.sent, cudaEventDisableTiming));
    }
  }
  ~Reader() {
    cudaStreamSynchronize(stream_);  // nothing may still read the buffers
    for (Slot& s : slots_) cudaEventDestroy(s.sent);
    cudaStreamDestroy(stream_);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  void send(const UploadPiece& piece) {
    FATHOM_CHECK(piece.bytes <= kUploadPiece, "a piece of {} bytes", piece.bytes);
    Slot& s = slots_[next_];
    next_ ^= 1;
    FATHOM_CUDA(cudaEventSynchronize(s.sent));  // at once when it was never recorded
    piece.fill(s.memory.data());
    FATHOM_CUDA(
        cudaMemcpyAsync(piece.to, s.memory.data(), piece.bytes, cudaMemcpyHostToDevice, stream_));
    FATHOM_CUDA(cudaEventRecord(s.sent, stream_));
  }
  void finish() { FATHOM_CUDA(cudaStreamSynchronize(stream_)); }

 private:
  struct Slot {
    Buffer memory;
    cudaEvent_t sent = nullptr;
  };
  cudaStream_t stream_ = nullptr;
  Slot slots_[2];
  int next_ = 0;
};

}  // namespace

void upload_to_gpu(std::span<const UploadPiece> pieces, int threads,
                   const std::function<void(int64_t)>& done) {
  int readers = threads > 0 ? threads : kDefaultReaders;
  readers = static_cast<int>(std::min<size_t>(static_cast<size_t>(readers), pieces.size()));
  std::atomic<size_t> next{0};
  std::mutex mutex;  // guards what follows
  int64_t written = 0;
  std::exception_ptr error;
  auto work = [&] {
    try {
      Reader reader;
      for (size_t i = next++; i < pieces.size(); i = next++) {
        reader.send(pieces[i]);
        std::lock_guard lock(mutex);
        written += static_cast<int64_t>(pieces[i].bytes);
        if (done) done(written);
      }
      reader.finish();
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      next = pieces.size();  // the others stop too
    }
  };
  {
    std::vector<std::jthread> team;
    for (int i = 0; i < readers; ++i) team.emplace_back(work);
  }
  if (error) std::rethrow_exception(error);
}

void fill_random_fp8(void* to, int64_t count, uint64_t seed) {
  cuda::fill_fp8(static_cast<uint8_t*>(to), count, seed, nullptr);
}

void fill_random_bf16(void* to, int64_t count, float scale, uint64_t seed) {
  cuda::fill_bf16(to, count, scale, seed, nullptr);
}

}  // namespace fathom
