#include "plan/measured.h"

#include <fmt/format.h>

#include <array>

#include "plan/step_times.h"

namespace fathom::plan {
namespace {

// One MoE layer with all 256 experts: differences between runs of `bench --random 671b-layers=N`
// (docs/performance.md, docs/gpu-cost.txt).
struct LayerFigure {
  const char* gpu;
  int64_t context;
  int rows;  // sequences of a decode; 0: a chunk of a prompt
  int chunk;
  double us;
  bool fitted;
};
constexpr std::array kLayers = {
    LayerFigure{"h200", 2048, 1, 0, 227, false},
    LayerFigure{"h200", 2048, 16, 0, 1225, false},
    LayerFigure{"h200", 2048, 64, 0, 2608, false},
    LayerFigure{"h200", 32768, 1, 0, 246, true},
    LayerFigure{"h200", 32768, 16, 0, 1258, true},
    LayerFigure{"h200", 32768, 64, 0, 2687, true},
    LayerFigure{"h200", 32768, 0, 4096, 15060, true},
    LayerFigure{"h200", 131072, 0, 4096, 23680, false},
    LayerFigure{"h100", 2048, 1, 0, 280, false},
    LayerFigure{"h100", 32768, 1, 0, 287, false},
    LayerFigure{"h100", 131072, 1, 0, 301, false},
    LayerFigure{"h100", 2048, 16, 0, 1659, false},
    LayerFigure{"h100", 32768, 16, 0, 1705, false},
    LayerFigure{"h100", 131072, 16, 0, 1874, false},
    LayerFigure{"h100", 2048, 64, 0, 3470, false},
    LayerFigure{"h100", 32768, 64, 0, 3590, false},
    LayerFigure{"h100", 2048, 0, 2048, 7286, false},
    LayerFigure{"h100", 4096, 0, 4096, 11961, false},
    LayerFigure{"h100", 32768, 0, 4096, 15706, false},
    LayerFigure{"h100", 131072, 0, 4096, 23979, false},
};

// Sum of bf16 rows of the model's width over two H200, the faster of one shot and two
// (docs/performance.md).
struct SumFigure {
  int rows;
  double us;
};
constexpr std::array kSums = {SumFigure{1, 3.2},   SumFigure{16, 4.1},   SumFigure{64, 6.5},
                              SumFigure{128, 9.0}, SumFigure{512, 27.4}, SumFigure{4096, 181}};

}  // namespace

std::vector<Comparison> compare_with_measured(const Config& real) {
  std::vector<Comparison> all;
  for (const LayerFigure& f : kLayers) {
    const GpuModel& gpu = gpu_model(f.gpu);
    const StepTimes times(real, {}, gpu, Numerics::fp8, 1);
    Comparison c;
    c.where = gpu.title;
    c.fitted = f.fitted;
    c.measured = f.us;
    if (f.rows > 0) {
      c.what = fmt::format("decode, {} at {}", f.rows, f.context);
      c.predicted = times.decode_layer(true, f.rows, f.context).total();
    } else {
      c.what = fmt::format("chunk of {} ending at {}", f.chunk, f.context);
      c.predicted = times.prompt_layer(true, f.chunk, f.context - f.chunk).total();
    }
    all.push_back(c);
  }
  const ExchangeTimes links(gpu_model("h200"), 8);
  for (const SumFigure& f : kSums) {
    Comparison c;
    c.where = "2 x H200";
    c.what = fmt::format("sum of {} row{}", f.rows, f.rows == 1 ? "" : "s");
    c.fitted = true;
    c.measured = f.us;
    c.predicted = links.sum(2, f.rows, 2.0 * real.hidden);
    all.push_back(c);
  }
  return all;
}

std::string text_of(const std::vector<Comparison>& rows) {
  std::string out = fmt::format("{:<18} {:<30} {:>12} {:>12} {:>8}\n", "on",
                                "one MoE layer, or a sum", "measured us", "predicted us", "error");
  for (const Comparison& c : rows)
    out += fmt::format("{:<18} {:<30} {:>12.1f} {:>12.1f} {:>+7.1f}%{}\n", c.where, c.what,
                       c.measured, c.predicted, 100 * c.error(), c.fitted ? "  fitted" : "");
  return out + "fitted: constants of the prediction were chosen by this figure\n";
}

}  // namespace fathom::plan
