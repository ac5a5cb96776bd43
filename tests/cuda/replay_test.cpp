// Thousands of replays of a recorded step, each compared bit for bit with the same step run by
// kernels that start only when the one before them has ended: what a kernel that starts early sees
// too early, or too late, shows here.
#include <array>

#include "layer.h"

namespace fathom::cuda {
namespace {

class Replays : public WholeLayer {
 protected:
  // What the layer leaves behind, in the order in which its ops write it.
  struct Watched {
    const char* name;
    Tensor Layer::*tensor;
  };
  static constexpr Watched kWatched[] = {{"kv_a", &Layer::kv_a_out},
                                         {"index_k", &Layer::index_k_out},
                                         {"q_low", &Layer::q_low},
                                         {"q", &Layer::q},
                                         {"index_q", &Layer::index_q},
                                         {"index codes", &Layer::index_q8},
                                         {"head weights", &Layer::weights_out},
                                         {"picked", &Layer::picked},
                                         {"attended", &Layer::attended},
                                         {"residual", &Layer::residual},
                                         {"normed", &Layer::normed},
                                         {"ids", &Layer::ids},
                                         {"weights", &Layer::weight},
                                         {"update", &Layer::update},
                                         {"logits", &Layer::logits}};
  static constexpr int kSteps = 2;  // with different tokens, in turn: what a replay finds in memory
                                    // is never what it must leave there
  static constexpr int kSlots = 4;  // replays whose results are on their way to the host

  // The ids of step `i`; positions and lengths are those of the recording. Padding keeps its one
  // id: all of it writes the same cache row.
  void choose_step(int i) {
    for (size_t t = 0; t < static_cast<size_t>(live); ++t)
      ids[t] = static_cast<int32_t>((1 + t * 997 + static_cast<size_t>(i) * 1531) % d.vocab);
  }

  static size_t bytes_of(const Tensor& t) {
    return t.empty() ? 0 : static_cast<size_t>(t.size()) * size_of(t.dtype);
  }
  size_t watched_bytes() const {
    size_t all = copied_bytes();
    for (const Watched& w : kWatched) all += bytes_of(dev.*w.tensor);
    return all;
  }
  size_t copied_bytes() const { return copied_ ? bytes_of(dev.*copied_) : 0; }

  // Every watched tensor, and what was copied in the middle of the step, to the host.
  void fetch(std::byte* to) {
    cudaStream_t stream = static_cast<cudaStream_t>(gpu->stream());
    auto take = [&](const void* from, size_t bytes) {
      FATHOM_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
      to += bytes;
    };
    if (copied_) take(copy_.data(), copied_bytes());
    for (const Watched& w : kWatched)
      if (!(dev.*w.tensor).empty()) take((dev.*w.tensor).data, bytes_of(dev.*w.tensor));
  }

  // Counts a replay against every tensor that differs.
  void compare(const std::byte* got, const std::byte* want) {
    auto check = [&](const std::string& name, size_t bytes) {
      if (std::memcmp(got, want, bytes) != 0) {
        Difference& different = different_[name];
        if (different.replays++ == 0)
          for (size_t i = 0; i < bytes; ++i)
            if (got[i] != want[i]) {
              if (different.bytes++ == 0) different.first = i;
              different.last = i;
            }
      }
      got += bytes;
      want += bytes;
    };
    if (copied_) check("the copy", copied_bytes());
    for (const Watched& w : kWatched) check(w.name, bytes_of(dev.*w.tensor));
  }

  // The layer with a copy of the result of op `after` behind it: a copy waits for all before it and
  // is waited for, so it moves the places at which kernels overlap.
  void run_with_copy(const std::string& after) {
    run_layer(*gpu, dev, [&](const char* op, Tensor Layer::*result) {
      if (op != after) return;
      FATHOM_CUDA(cudaMemcpyAsync(copy_.data(), (dev.*result).data, bytes_of(dev.*result),
                                  cudaMemcpyDeviceToDevice,
                                  static_cast<cudaStream_t>(gpu->stream())));
      copied_ = result;
    });
  }

  void replay(const std::string& after, int replays) {
    SCOPED_TRACE("a copy after " + after);
    CudaSettings settings;
    settings.dependent_launch = false;
    gpu = make_cuda_ops(numerics_, workload, settings);
    copied_ = nullptr;
    reset_cache();
    std::array<std::vector<std::byte>, kSteps> want;
    for (int i = 0; i < kSteps; ++i) {
      choose_step(i);
      run_with_copy(after);
      want[i].resize(watched_bytes());
      fetch(want[i].data());
      gpu->synchronize();
    }

    settings.dependent_launch = true;
    gpu = make_cuda_ops(numerics_, workload, settings);
    cudaStream_t stream = static_cast<cudaStream_t>(gpu->stream());
    run_with_copy(after);  // loads every kernel
    gpu->synchronize();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    FATHOM_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    run_with_copy(after);
    FATHOM_CUDA(cudaStreamEndCapture(stream, &graph));
    FATHOM_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    std::array<cudaEvent_t, kSlots> fetched = {};
    for (cudaEvent_t& e : fetched)
      FATHOM_CUDA(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    const size_t bytes = watched_bytes();
    Buffer slots(kSlots * bytes, MemoryKind::pinned);
    different_.clear();
    auto judge = [&](int i) {
      FATHOM_CUDA(cudaEventSynchronize(fetched[i % kSlots]));
      compare(slots.data() + i % kSlots * bytes, want[i % kSteps].data());
    };
    for (int i = 0; i < replays; ++i) {
      if (i >= kSlots) judge(i - kSlots);
      choose_step(i % kSteps);
      gpu->restage(inputs());
      FATHOM_CUDA(cudaGraphLaunch(exec, stream));
      fetch(slots.data() + i % kSlots * bytes);
      FATHOM_CUDA(cudaEventRecord(fetched[i % kSlots], stream));
    }
    for (int i = std::max(0, replays - kSlots); i < replays; ++i) judge(i);
    for (const auto& [name, x] : different_)
      ADD_FAILURE() << name << " differs in " << x.replays << " of " << replays
                    << " replays; in the first of them " << x.bytes << " bytes from " << x.first
                    << " to " << x.last;
    for (cudaEvent_t e : fetched) cudaEventDestroy(e);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  }

  void replay_all(Form form, int replays) {
    prepare(Numerics::fp8, kReal, form);
    copy_ = Buffer(size_t{64} << 20, MemoryKind::device);
    const QWeight kv_b = dev.up.kv_b;
    for (const std::string after :
         {"nothing", "rms_norm", "q_b", "picked", "attended", "mlp", "ids"}) {
      dev.up.kv_b = after == "nothing" ? kv_b : QWeight{};  // attended rows as codes alone, or not
      replay(after, replays);
    }
  }

 private:
  struct Difference {
    int replays = 0;
    size_t bytes = 0, first = 0, last = 0;
  };
  Tensor Layer::*copied_ = nullptr;
  Buffer copy_;
  std::map<std::string, Difference> different_;
};

TEST_F(Replays, OfDecodesKeepTheirBits) { replay_all(Form::decode, 1000); }
TEST_F(Replays, OfChunksKeepTheirBits) { replay_all(Form::mixed, 500); }

}  // namespace
}  // namespace fathom::cuda
