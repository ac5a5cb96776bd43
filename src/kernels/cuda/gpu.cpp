#include "kernels/gpu.h"
#include "kernels/trace_ops.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/prim/device_guard.h"
#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/prim/random_fill.h"

namespace fathom {

namespace {

// Fills in what a GPU says of itself; why it is not usable, or nothing.
std::string look_at(int device, GpuInfo& info) {
  cudaDeviceProp p{};
  const cudaError_t e = cudaGetDeviceProperties(&p, device);
  if (e != cudaSuccess) {
    cudaGetLastError();
    return cudaGetErrorString(e);
  }
  if (device == 0) info.name = p.name;
  if (p.major != 9 || p.minor != 0)
    return fmt::format(
        "{} has compute capability {}.{}: the kernels are built for 9.0 (H100, H200)", p.name,
        p.major, p.minor);
  int64_t free = 0;
  try {
    const cuda::DeviceGuard guard(device);
    free = static_cast<int64_t>(device_memory_free());
  } catch (const Error& broken) {
    return broken.what();
  }
  info.free = device == 0 ? free : std::min(info.free, free);
  return free > 0 ? "" : fmt::format("{} gives no memory", p.name);
}

}  // namespace

GpuInfo find_gpu(int ranks) {
  GpuInfo info;
  const cudaError_t e = cudaGetDeviceCount(&info.count);
  if (e != cudaSuccess || info.count == 0) {
    cudaGetLastError();  // not an error of whatever runs next
    info.count = 0;
    info.why_not = e == cudaErrorNoDevice || e == cudaSuccess ? "no NVIDIA GPU was found"
                   : e == cudaErrorInsufficientDriver
                       ? "the NVIDIA driver is missing or older than this build of CUDA needs"
                       : cudaGetErrorString(e);
    return info;
  }
  for (int device = 0; device < std::min(ranks, info.count) && info.why_not.empty(); ++device)
    info.why_not = look_at(device, info);
  if (info.why_not.empty() && ranks > info.count)
    info.why_not =
        fmt::format("{} ranks need as many GPUs, this machine has {}", ranks, info.count);
  info.usable = info.why_not.empty();
  return info;
}

void use_gpu(int rank) { FATHOM_CUDA(cudaSetDevice(rank)); }

namespace {

constexpr size_t kReaders = 8;

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

namespace {

// Scores are written in blocks of keys, the last of which may reach past the context.
constexpr int64_t kScoreSlack = 1024;

// Every op finished before it returns, so that an observer reads what it wrote.
class SynchronousOps final : public TraceOps {
 public:
  SynchronousOps(std::unique_ptr<CudaOps> ops, int64_t context)
      : TraceOps(*ops),
        ops_(std::move(ops)),
        score_row_(static_cast<size_t>(context + kScoreSlack) * sizeof(float), MemoryKind::shared) {
  }

  StepInputs begin_step(const StepInputs& in) override {
    const StepInputs brought = ops_->begin_step(in);
    ops_->synchronize();
    return brought;
  }
  // Observers pass memory of their own, whose rows may lack the slack that the kernel needs.
  void index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor index_q,
                    Tensor head_weight, const KvView& kv, const BatchView& batch) override {
    const int64_t room = static_cast<int64_t>(score_row_.size() / 4);
    for (size_t i = 0; i < tokens.size(); ++i) {
      Tensor row(score_row_.data(), DType::f32, {1, room});
      ops_->index_scores(row, tokens.subspan(i, 1), index_q, head_weight, kv, batch);
      ops_->synchronize();
      const int64_t n = std::min<int64_t>(scores.row_size(), batch.positions[tokens[i]] + 1);
      std::memcpy(scores.row<float>(static_cast<int64_t>(i)), score_row_.data(),
                  static_cast<size_t>(n) * sizeof(float));
    }
  }

 private:
  void after(OpKind, std::span<const Tensor>) override { ops_->synchronize(); }

  std::unique_ptr<CudaOps> ops_;
  Buffer score_row_;
};

}  // namespace

std::unique_ptr<Ops> make_gpu_ops(Numerics numerics, const Workload& workload, bool observed) {
  CudaSettings settings;
  settings.shared_memory = observed;
  settings.fuse = !observed;
  auto ops = make_cuda_ops(numerics, workload, settings);
  if (!observed) return ops;
  return std::make_unique<SynchronousOps>(std::move(ops), workload.context);
}

void upload_to_gpu(std::span<const UploadPiece> pieces,
                   const std::function<void(int64_t)>& filled) {
  const int readers = static_cast<int>(std::min<size_t>(kReaders, pieces.size()));
  std::atomic<size_t> next{0};
  std::mutex mutex;  // guards error
  std::exception_ptr error;
  int device = 0;  // of this thread, and then of the readers
  FATHOM_CUDA(cudaGetDevice(&device));
  auto work = [&] {
    try {
      use_gpu(device);
      Reader reader;
      for (size_t i = next++; i < pieces.size(); i = next++) {
        reader.send(pieces[i]);
        if (filled) filled(static_cast<int64_t>(pieces[i].bytes));
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

void copy_on_gpu(void* to, const void* from, size_t bytes) {
  FATHOM_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice));
  FATHOM_CUDA(cudaStreamSynchronize(nullptr));  // copies within the GPU return at once
}

void fill_random_fp8(void* to, int64_t count, uint64_t seed) {
  cuda::fill_fp8(static_cast<uint8_t*>(to), count, seed, nullptr);
  FATHOM_CUDA(cudaStreamSynchronize(nullptr));
}

void fill_random_bf16(void* to, int64_t count, float scale, uint64_t seed) {
  cuda::fill_bf16(to, count, scale, seed, nullptr);
  FATHOM_CUDA(cudaStreamSynchronize(nullptr));
}

}  // namespace fathom
