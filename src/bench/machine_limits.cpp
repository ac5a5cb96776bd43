#include "bench/machine_limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <utility>

#include "base/check.h"
#include "bench/timing.h"
#include "io/machine.h"
#include "kernels/cpu/peak_rate.h"
#include "tensor/buffer.h"

namespace fathom {
namespace {

using Clock = BenchClock;

constexpr int64_t kReadGrain = 1 << 20;  // a thread's share starts on a huge page or half of one
constexpr int kReadPasses = 7;
constexpr int kProductRuns = 7;
constexpr double kProductSeconds = 0.02;  // of one run: past the clock's ramp, yet many per slice

// Runs `body(thread)` once on every thread.
template <class F>
void on_every_thread(ThreadPool& pool, const F& body) {
  pool.parallel_for(pool.size(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

double read_rate(const PeakKernels& kernels, ThreadPool& pool, int64_t bytes) {
  Buffer buffer(static_cast<size_t>(bytes));
  // Written first, by the threads that will read it: untouched memory is one shared page of zeros.
  pool.parallel_for(bytes, kReadGrain, [&](int64_t begin, int64_t end, int) {
    std::memset(buffer.data() + begin, 1, static_cast<size_t>(end - begin));
  });
  double best = 0;
  std::atomic<uint64_t> sink{0};  // keeps the reading from being dropped
  for (int pass = 0; pass < kReadPasses; ++pass) {
    auto start = Clock::now();
    pool.parallel_for(bytes, kReadGrain, [&](int64_t begin, int64_t end, int) {
      sink.fetch_xor(kernels.read(buffer.data() + begin, end - begin));
    });
    best = std::max(best, static_cast<double>(bytes) / seconds_since(start));
  }
  return best;
}

double product_rate(const PeakProduct& product, ThreadPool& pool) {
  std::atomic<float> sink{0};
  auto run = [&](int64_t rounds) {
    auto start = Clock::now();
    on_every_thread(pool, [&](int64_t) { sink.store(product.run(rounds)); });
    return seconds_since(start);
  };
  int64_t rounds = 1000;
  for (double s = run(rounds); s < kProductSeconds; s = run(rounds)) {
    // Approaches the target time in bounded steps, because a first run on sleeping threads is
    // misleading.
    double leap = std::clamp(1.1 * kProductSeconds / std::max(s, 1e-9), 1.1, 16.0);
    rounds = static_cast<int64_t>(static_cast<double>(rounds) * leap);
  }
  double best = 0;
  for (int i = 0; i < kProductRuns; ++i)
    best = std::max(
        best, static_cast<double>(rounds * product.flops_per_round * pool.size()) / run(rounds));
  return best;
}

}  // namespace

// Sums the caches of all processors: on a chip with several, one processor may find its data in
// another's cache. Read from the kernel's tables, because sysconf reports the whole server's cache
// inside a small guest.
int64_t last_level_cache_bytes() {
  std::map<std::pair<int, std::string>, int64_t> caches;  // by level and the processors it serves
  for (int cpu = 0;; ++cpu) {
    const std::string dir = fmt::format("/sys/devices/system/cpu/cpu{}/cache/index", cpu);
    if (!std::ifstream(dir + "0/level")) break;
    for (int index = 0;; ++index) {
      const std::string cache = fmt::format("{}{}/", dir, index);
      int level = 0;
      if (!(std::ifstream(cache + "level") >> level)) break;
      std::string shared, unit;
      int64_t kib = 0;
      std::ifstream(cache + "shared_cpu_map") >> shared;
      if (std::ifstream(cache + "size") >> kib >> unit && unit == "K")
        caches[{level, shared}] = kib * 1024;
    }
  }
  int64_t sum = 0;
  for (const auto& [key, bytes] : caches)
    if (key.first == caches.rbegin()->first.first) sum += bytes;
  return sum;
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name"))
      if (size_t colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "unknown processor";
}

int64_t read_buffer_bytes(int64_t last_level_cache) {
  int64_t wanted = std::max<int64_t>(256 << 20, 8 * last_level_cache);
  // Servers with hundreds of megabytes of cache have memory for this; on small machines a quarter
  // of the memory is the limit.
  if (int64_t available = available_memory(); available > 0)
    wanted = std::min(wanted, available / 4);
  return std::max(kReadGrain, wanted / kReadGrain * kReadGrain);
}

MachineLimits measure_limits(Numerics numerics, ThreadPool& pool, int64_t buffer_bytes) {
  const PeakKernels& kernels = peak_kernels();
  // fp8 on a CPU is computed in bf16, which holds every e4m3 value.
  const PeakProduct& product = numerics == Numerics::exact ? kernels.f32 : kernels.bf16;
  MachineLimits limits;
  limits.processor = processor_name();
  getloadavg(&limits.load, 1);
  limits.last_level_cache = last_level_cache_bytes();
  limits.threads = pool.size();
  limits.buffer = buffer_bytes ? buffer_bytes : read_buffer_bytes(limits.last_level_cache);
  FATHOM_CHECK(limits.buffer % 4096 == 0, "a buffer of {} bytes", limits.buffer);
  limits.read_per_s = read_rate(kernels, pool, limits.buffer);
  limits.flops_per_s = product_rate(product, pool);
  limits.instruction = product.instruction;
  return limits;
}

}  // namespace fathom
