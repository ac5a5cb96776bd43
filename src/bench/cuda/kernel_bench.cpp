#include "bench/cuda/kernel_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fathom::cuda {
namespace {

constexpr double kBeyondCache = 200e6;  // bytes; the L2 of an H100 holds 50 MB
constexpr int kReplays = 7;
constexpr int kMaxLaunches = 256;
constexpr double kReplayTime = 2000;  // microseconds a graph should last, so that its start is lost

struct Graph {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ~Graph() {
    if (exec) cudaGraphExecDestroy(exec);
    if (graph) cudaGraphDestroy(graph);
  }
};

struct Events {
  cudaEvent_t begin = nullptr, end = nullptr;
  Events() {
    FATHOM_CUDA(cudaEventCreate(&begin));
    FATHOM_CUDA(cudaEventCreate(&end));
  }
  ~Events() {
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
};

void capture(Graph& g, const Launch& l, int launches, int sets,
             const std::function<void(const Launch&, int)>& run) {
  FATHOM_CUDA(cudaStreamBeginCapture(l.stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) run(l, i % sets);
  FATHOM_CUDA(cudaStreamEndCapture(l.stream, &g.graph));
  FATHOM_CUDA(cudaGraphInstantiate(&g.exec, g.graph, 0));
}

double replay(const Graph& g, const Launch& l, const Events& e) {
  FATHOM_CUDA(cudaEventRecord(e.begin, l.stream));
  FATHOM_CUDA(cudaGraphLaunch(g.exec, l.stream));
  FATHOM_CUDA(cudaEventRecord(e.end, l.stream));
  FATHOM_CUDA(cudaEventSynchronize(e.end));
  float ms = 0;
  FATHOM_CUDA(cudaEventElapsedTime(&ms, e.begin, e.end));
  return ms * 1e3;
}

}  // namespace

BenchContext::BenchContext(std::string only)
    : only_(std::move(only)), workspace_(size_t{1} << 30, MemoryKind::device) {
  int device = 0, sms = 0;
  FATHOM_CUDA(cudaGetDevice(&device));
  FATHOM_CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  FATHOM_CUDA(cudaStreamCreateWithFlags(&launch_.stream, cudaStreamNonBlocking));
  launch_.sms = sms;
  launch_.workspace = workspace_.data();
  launch_.workspace_bytes = workspace_.size();
  ceilings_ = measure_ceilings(launch_);
  fmt::print("ceilings: read {:.2f} TB/s, copy {:.2f} TB/s, bf16 {:.0f}, fp8 {:.0f} TFLOP/s\n",
             ceilings_.read_gbs / 1e3, ceilings_.copy_gbs / 1e3, ceilings_.bf16_tflops,
             ceilings_.fp8_tflops);
  fmt::print("{:<16} {:<34} {:>9} {:>8} {:>7} {:>9} {:>6} {:>7}\n", "family", "shape", "us",
             "TFLOP/s", "GB/s", "floor us", "share", "anchor");
}

BenchContext::~BenchContext() { cudaStreamDestroy(launch_.stream); }

bool BenchContext::wanted(std::string_view family, std::string_view shape) const {
  return only_.empty() || family.find(only_) != std::string_view::npos ||
         shape.find(only_) != std::string_view::npos;
}

int BenchContext::sets_for(double bytes) const {
  return std::clamp(static_cast<int>(std::ceil(kBeyondCache / std::max(bytes, 1.0))), 1, 64);
}

double BenchContext::time(int sets, const std::function<void(const Launch&, int)>& run) {
  Events events;
  // A first run loads modules and sets attributes, so that they are not measured. It is not
  // captured, so errors are reported.
  run(launch_, 0);
  FATHOM_CUDA(cudaStreamSynchronize(launch_.stream));
  Graph probe;
  capture(probe, launch_, sets, sets, run);
  replay(probe, launch_, events);
  const double once = replay(probe, launch_, events) / sets;
  const int wished = static_cast<int>(kReplayTime / std::max(once, 0.5));
  const int launches = std::max(sets, std::min(wished, kMaxLaunches) / sets * sets);
  Graph graph;
  capture(graph, launch_, launches, sets, run);
  replay(graph, launch_, events);
  std::vector<double> times;
  for (int i = 0; i < kReplays; ++i) times.push_back(replay(graph, launch_, events) / launches);
  std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
  return times[kReplays / 2];
}

void BenchContext::report(std::string family, std::string shape, double us, double flop, Math math,
                          double bytes, double anchor_us) {
  const double tflops = math == Math::fp8 ? ceilings_.fp8_tflops : ceilings_.bf16_tflops;
  const double floor = std::max(flop / (tflops * 1e6), bytes / (ceilings_.read_gbs * 1e3));
  keep({std::move(family), std::move(shape), us, flop, bytes, floor, anchor_us});
}

void BenchContext::report_at(std::string family, std::string shape, double us, double bytes,
                             double gbs, double anchor_us) {
  keep({std::move(family), std::move(shape), us, 0, bytes, bytes / (gbs * 1e3), anchor_us});
}

void BenchContext::keep(BenchRow r) {
  fmt::print("{:<16} {:<34} {:>9.1f} {:>8.0f} {:>7.0f} {:>9.1f} {:>5.0f}%{}\n", r.family, r.shape,
             r.us, r.flop / r.us / 1e6, r.bytes / r.us / 1e3, r.floor_us, 100 * r.floor_us / r.us,
             r.anchor_us > 0 ? fmt::format(" {:>6.2f}x", r.us / r.anchor_us) : "");
  rows_.push_back(std::move(r));
}

}  // namespace fathom::cuda
