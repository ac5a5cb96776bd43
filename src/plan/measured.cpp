#include "plan/measured.h"

#include <fmt/format.h>

#include <array>
#include <span>

#include "numerics/cache_rows.h"
#include "plan/step_times.h"

namespace fathom::plan {
namespace {

// One MoE layer with all 256 experts: differences between runs of `bench --random 671b-layers=N`
// (docs/performance.md, docs/gpu-cost.txt).
struct LayerFigure {
  const char* gpu;
  int tensor, data;
  int64_t context;
  int rows;  // sequences of a decode, of each group; 0: a chunk of a prompt
  int chunk;
  double us;
  bool fitted;
};
constexpr std::array kLayers = {
    LayerFigure{"h200", 1, 1, 2048, 1, 0, 217, false},
    LayerFigure{"h200", 1, 1, 2048, 16, 0, 1187, false},
    LayerFigure{"h200", 1, 1, 4096, 64, 0, 2550, false},
    LayerFigure{"h200", 1, 1, 32768, 1, 0, 221, false},
    LayerFigure{"h200", 1, 1, 32768, 16, 0, 1219, false},
    LayerFigure{"h200", 1, 1, 32768, 64, 0, 2710, true},
    LayerFigure{"h200", 1, 1, 131072, 16, 0, 1362, false},
    LayerFigure{"h200", 1, 1, 131072, 64, 0, 3040, false},
    LayerFigure{"h200", 1, 1, 2048, 0, 2048, 5916, false},
    LayerFigure{"h200", 1, 1, 4096, 0, 4096, 10173, false},
    LayerFigure{"h200", 1, 1, 8192, 0, 4096, 11569, false},
    LayerFigure{"h200", 1, 1, 32768, 0, 4096, 13468, false},
    LayerFigure{"h200", 1, 1, 65536, 0, 4096, 15627, false},
    LayerFigure{"h200", 1, 1, 131072, 0, 4096, 20451, false},
    LayerFigure{"h100", 1, 1, 2048, 1, 0, 280, false},
    LayerFigure{"h100", 1, 1, 32768, 1, 0, 287, false},
    LayerFigure{"h100", 1, 1, 131072, 1, 0, 301, false},
    LayerFigure{"h100", 1, 1, 2048, 16, 0, 1659, false},
    LayerFigure{"h100", 1, 1, 32768, 16, 0, 1705, false},
    LayerFigure{"h100", 1, 1, 131072, 16, 0, 1874, false},
    LayerFigure{"h100", 1, 1, 2048, 64, 0, 3470, false},
    LayerFigure{"h100", 1, 1, 32768, 64, 0, 3590, false},
    LayerFigure{"h100", 1, 1, 2048, 0, 2048, 7286, false},
    LayerFigure{"h100", 1, 1, 4096, 0, 4096, 11961, false},
    LayerFigure{"h100", 1, 1, 32768, 0, 4096, 15706, false},
    LayerFigure{"h100", 1, 1, 131072, 0, 4096, 23979, false},
    LayerFigure{"h200", 2, 1, 2048, 1, 0, 169, false},
    LayerFigure{"h200", 2, 1, 8192, 1, 0, 173, false},
    LayerFigure{"h200", 2, 1, 32768, 1, 0, 177, false},
    LayerFigure{"h200", 2, 1, 8192, 16, 0, 690, false},
    LayerFigure{"h200", 2, 1, 32768, 16, 0, 708, false},
    LayerFigure{"h200", 2, 1, 8192, 64, 0, 1375, false},
    LayerFigure{"h200", 2, 1, 32768, 64, 0, 1464, false},
    LayerFigure{"h200", 2, 1, 8192, 128, 0, 1635, false},
    LayerFigure{"h200", 2, 1, 32768, 128, 0, 1707, false},
    LayerFigure{"h200", 2, 1, 131072, 1, 0, 174, false},
    LayerFigure{"h200", 2, 1, 131072, 16, 0, 799, false},
    LayerFigure{"h200", 2, 1, 8192, 0, 4096, 7170, false},
    LayerFigure{"h200", 2, 1, 32768, 0, 4096, 8160, false},
    LayerFigure{"h200", 2, 1, 131072, 0, 4096, 12190, false},
    LayerFigure{"h200", 1, 2, 8192, 1, 0, 270, false},
    LayerFigure{"h200", 1, 2, 32768, 1, 0, 273, false},
    LayerFigure{"h200", 1, 2, 8192, 16, 0, 1067, false},
    LayerFigure{"h200", 1, 2, 32768, 16, 0, 1099, false},
    LayerFigure{"h200", 1, 2, 8192, 64, 0, 1615, false},
    LayerFigure{"h200", 1, 2, 32768, 64, 0, 1684, false},
    LayerFigure{"h200", 1, 2, 8192, 128, 0, 1830, false},
    LayerFigure{"h200", 1, 2, 131072, 1, 0, 283, false},
    LayerFigure{"h200", 1, 2, 8192, 0, 4096, 12730, false},
    LayerFigure{"h200", 1, 2, 32768, 0, 4096, 14620, false},
    LayerFigure{"h200", 1, 2, 131072, 0, 4096, 22650, false},
};

// Sum of bf16 rows of the model's width over two H200, the faster of one shot and two
// (docs/performance.md).
struct RowsFigure {
  int rows;
  double us;
};
constexpr std::array kSums = {RowsFigure{1, 3.2},   RowsFigure{16, 4.1},   RowsFigure{64, 6.5},
                              RowsFigure{128, 9.0}, RowsFigure{512, 27.4}, RowsFigure{4096, 181}};
// So many rows of each of the two to the ranks of their experts, and back.
constexpr std::array kSent = {RowsFigure{1, 5.5}, RowsFigure{16, 6.1}, RowsFigure{64, 7.1},
                              RowsFigure{128, 8.7}, RowsFigure{4096, 92.9}};
constexpr std::array kBrought = {RowsFigure{1, 6.3}, RowsFigure{16, 7.7}, RowsFigure{64, 9.4},
                                 RowsFigure{128, 12.2}, RowsFigure{4096, 184.5}};

}  // namespace

std::vector<Comparison> compare_with_measured(const Config& real) {
  std::vector<Comparison> all;
  for (const LayerFigure& f : kLayers) {
    const GpuModel& gpu = gpu_model(f.gpu);
    const int ranks = f.tensor * f.data;
    const StepTimes times(real, {f.tensor, f.data, 0}, gpu, Numerics::fp8, ranks);
    Comparison c;
    c.where = ranks == 1 ? gpu.title
                         : fmt::format("{} x {}, {}", ranks, gpu.title, f.data == 1 ? "tp" : "dp");
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
  const auto compare = [&](const char* what, std::span<const RowsFigure> figures, auto predicted) {
    for (const RowsFigure& f : figures) {
      Comparison c;
      c.where = "2 x H200";
      c.what = fmt::format("{} {} row{}", what, f.rows, f.rows == 1 ? "" : "s");
      c.fitted = true;
      c.measured = f.us;
      c.predicted = predicted(f.rows);
      all.push_back(c);
    }
  };
  const double row = 2.0 * real.hidden, coded = real.hidden + 4.0 * real.hidden / kFp8Block;
  const double sent = destinations(real, 2);
  compare("sum of", kSums, [&](int n) { return links.sum(2, n, row); });
  compare("to the experts:", kSent, [&](int n) { return links.send_rows(2, n * sent * coded); });
  compare("back from them:", kBrought, [&](int n) { return links.bring_rows(2, n * sent * row); });
  return all;
}

std::string text_of(const std::vector<Comparison>& rows) {
  std::string out = fmt::format("{:<24} {:<30} {:>12} {:>12} {:>8}\n", "on",
                                "one MoE layer, or a sum", "measured us", "predicted us", "error");
  for (const Comparison& c : rows)
    out += fmt::format("{:<24} {:<30} {:>12.1f} {:>12.1f} {:>+7.1f}%{}\n", c.where, c.what,
                       c.measured, c.predicted, 100 * c.error(), c.fitted ? "  fitted" : "");
  return out + "fitted: constants of the prediction were chosen by this figure\n";
}

}  // namespace fathom::plan
