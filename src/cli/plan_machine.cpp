#include "cli/plan_machine.h"

#include <algorithm>

#include "base/error.h"
#include "comm/process_link.h"
#include "io/machine.h"
#include "kernels/gpu.h"
#include "plan/plan_text.h"

namespace fathom::cli {

plan::Machine machine_of(const ComputePlan& compute) {
  plan::Machine m;
  m.nodes = launched_machines();
  m.per_node = compute.layout.ranks() / m.nodes;
  if (compute.device == DeviceKind::cuda) {
    const GpuInfo gpu = find_gpu(compute.layout.ranks_here());
    m.gpu = plan::gpu_model_of_driver(gpu.name);
    if (m.gpu) m.memory = gpu.free;
  } else {
    m.memory = available_memory() / m.per_node;
    m.parts = std::max(1, m.per_node / numa_nodes());
    m.processes = compute.link ? compute.link->share().processors.count : 1;
    m.threads = compute.threads;
  }
  return m;
}

void say_plan(const std::string& folder, const ModelOptions& options) {
  const Config config = load_config(folder, options.config);
  plan::Request request;
  request.compute = options.compute.plan(folder);
  const ComputePlan& compute = *request.compute;
  const plan::Machine machine = machine_of(compute);
  // What is not known is not planned: the engine divides what it finds.
  if (machine.rank_memory() <= 0) return;
  request.context = compute.context;
  request.concurrency = compute.sequences;
  request.step_tokens = compute.step_tokens;
  // A block that is asked for and missing is the loader's matter.
  const bool drafts = options.compute.speculative_tokens ? compute.mtp : drafts_by_default(compute);
  request.mtp = drafts && config.mtp_layers > 0;
  request.tensor = compute.layout.tensor;
  request.data = compute.layout.data;
  request.folder = folder;
  request.config_file = options.config;
  const plan::Plan p = plan::make_plan(config, machine, request);
  const plan::LayoutPlan& layout = p.layouts.front();
  fmt::print(stderr, "{}", plan::summary_of(p, layout));
  // Ranks on processors share what each of them has whole: whether they fit the engine knows
  // better.
  if (layout.fits() || !machine.gpu) return;
  fail("{}{}{}", layout.refused,
       p.would_fit.empty() ? "" : "; would fit: ", fmt::join(p.would_fit, "; "));
}

}  // namespace fathom::cli
