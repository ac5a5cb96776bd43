#include "cli/eval_model.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/cpu_ops.h"
#include "runtime/cache_origin.h"

namespace fathom::cli {
namespace {

// An option that takes a list. Variants that differ in it are named by its values.
struct Dimension {
  const char* flag;
  const std::vector<std::string>* values;
  std::string Variant::*in_variant;  // one of these two
  std::string ComputeOptions::*in_compute;
};

std::unique_ptr<Checkpoint> load(const Variant& v) {
  CheckpointOptions options;
  options.config_file = v.model.config;
  options.with_mtp = false;  // plain decoding has no use for it
  return Checkpoint::load(v.folder, options);
}

}  // namespace

void VariantOptions::add_to(CLI::App& command) {
  auto list = [&](const char* flag, std::vector<std::string>& values, const std::string& text,
                  std::vector<std::string> allowed) {
    CLI::Option* option = command.add_option(flag, values, text)->delimiter(',');
    if (!allowed.empty()) option->check(CLI::IsMember(std::move(allowed)));
    return option;
  };
  list("--ckpt-path", folders, "checkpoint folder; with two, separated by a comma, side by side",
       {})
      ->required();
  list("--attention", attention, "sparse (the model), dense, or sparse,dense side by side",
       {"sparse", "dense"})
      ->capture_default_str();
  list("--numerics", numerics,
       "exact (float32, CPU), bf16, fp8, or several side by side (default: bf16 on a CPU, fp8 on "
       "a GPU)",
       {"exact", "bf16", "fp8"});
  list("--kv", kv, "cache rows: f32, bf16, fp8, or several (default: follows the numerics)",
       {"f32", "bf16", "fp8"});
  list("--device", device, "cpu, cuda, cpu,cuda side by side, or auto", {"auto", "cpu", "cuda"})
      ->capture_default_str();
  std::vector<std::string> names;
  for (const CpuKernels& row : cpu_kernels()) names.emplace_back(row.name);
  list("--kernels", kernels, "of the CPU: one or several (default: the best usable)",
       std::move(names));
  command.add_option("--config", config, "config file instead of the folder's own");
  command.add_option("--encoding", encoding, "v3.1 or v3.2 (default: what the folder says)")
      ->check(CLI::IsMember({"v3.1", "v3.2"}));
  command.add_option("--threads", common.threads, "threads, 0 for all processors")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command.add_flag("--batch-invariant", common.batch_invariant,
                   "one form of attention everywhere: decode equals prefill bit for bit");
  common.add_step_tokens_to(command);
  common.add_sequences_to(command);
}

bool VariantOptions::several_besides_attention() const {
  return folders.size() > 1 || numerics.size() > 1 || kv.size() > 1 || device.size() > 1 ||
         kernels.size() > 1;
}

std::vector<Variant> VariantOptions::variants() const {
  const Dimension dimensions[] = {
      {"--ckpt-path", &folders, &Variant::folder, nullptr},
      {"--attention", &attention, nullptr, &ComputeOptions::attention},
      {"--numerics", &numerics, nullptr, &ComputeOptions::numerics},
      {"--kv", &kv, nullptr, &ComputeOptions::kv},
      {"--device", &device, nullptr, &ComputeOptions::device},
      {"--kernels", &kernels, nullptr, &ComputeOptions::kernels},
  };
  const Dimension* several = nullptr;
  for (const Dimension& d : dimensions) {
    if (d.values->size() < 2) continue;
    if (several)
      throw UsageError(
          fmt::format("{} and {} both have several values: one list at a time is set "
                      "side by side",
                      several->flag, d.flag));
    std::vector<std::string> sorted = *d.values;
    std::sort(sorted.begin(), sorted.end());
    if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
      throw UsageError(fmt::format("{} names {} twice", d.flag, *twice));
    several = &d;
  }
  std::vector<Variant> out(several ? several->values->size() : 1);
  for (size_t i = 0; i < out.size(); ++i) {
    Variant& v = out[i];
    v.model.config = config;
    v.model.encoding = encoding;
    v.model.compute = common;
    for (const Dimension& d : dimensions) {
      if (d.values->empty()) continue;
      const std::string& value = (*d.values)[&d == several ? i : 0];
      if (d.in_variant)
        v.*d.in_variant = value;
      else
        v.model.compute.*d.in_compute = value;
    }
    v.name = several ? (*several->values)[i] : v.model.compute.attention;
  }
  return out;
}

EvalModel::EvalModel(const Variant& v)
    : checkpoint_(load(v)),
      tokenizer_(Tokenizer::from_folder(v.folder)),
      encoding_(choose_encoding(v.model.encoding, v.folder)),
      stop_ids_(stop_ids_of(v.folder, config())),
      digest_(checkpoint_digest(v.folder, v.model.config)) {
  for (const std::string& warning : checkpoint_->warnings())
    fmt::print(stderr, "note: {}\n", warning);
}

PageKey EvalModel::prepare(const Variant& v, EngineOptions e) {
  engine_.reset();
  const EngineOptions before = options_;
  options_ = engine_options_of(v.model, *checkpoint_, std::move(e));
  options_.checkpoint = digest_;
  if (before.compute.device != options_.compute.device ||
      before.compute.numerics != options_.compute.numerics)
    weights_.reset();
  // The weights already loaded are part of what the engine may use: they count as available memory.
  if (weights_ && options_.available_bytes) *options_.available_bytes += weights_->bytes_on_gpu();
  return cache_origin(config(), options_);
}

Engine& EvalModel::start() {
  const EngineOptions& e = options_;
  if (!weights_) {
    if (e.compute.device == DeviceKind::cuda)
      fmt::print(stderr, "{}\n", plan_engine(config(), e).describe());
    weights_ = std::make_unique<DeviceWeights>(config(), checkpoint_->weights(), e.compute, true);
  }
  engine_ = std::make_unique<Engine>(config(), weights_->get(), e);
  fmt::print(stderr, "{}\n", engine_->describe());
  return *engine_;
}

}  // namespace fathom::cli
