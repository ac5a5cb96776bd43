#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "base/progress.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/options.h"
#include "convert/presets.h"
#include "convert/random_checkpoint.h"

namespace fathom::cli {
namespace {

struct MakeCheckpointFlags {
  std::string preset, config, dtype;
  RandomOptions options;
};

int run_make_checkpoint(MakeCheckpointFlags flags) {
  RandomOptions& o = flags.options;
  say_threads(o.threads);
  if (flags.preset.empty() == flags.config.empty())
    throw UsageError("make-checkpoint needs either --preset or --config");
  o.origin = flags.preset.empty() ? flags.config : "preset " + flags.preset;
  o.config = flags.preset.empty() ? read_all(flags.config) : preset_config(flags.preset);
  if (flags.dtype == "fp8") o.dtype = DType::fp8_e4m3;
  if (flags.dtype == "bf16") o.dtype = DType::bf16;
  if (flags.dtype == "f32") o.dtype = DType::f32;
  RandomResult result =
      make_random_checkpoint(o, [](const std::string& line) { fmt::print("{}\n", line); });
  if (o.dry_run) {
    fmt::print("dry run: nothing was written\n");
    return 0;
  }
  auto rate = static_cast<double>(result.bytes) / std::max(result.seconds, 1e-3);
  fmt::print("done: {} in {:.1f} s ({})\n", bytes_text(result.bytes), result.seconds,
             rate_text(rate));
  return 0;
}

}  // namespace

void add_make_checkpoint(CLI::App& app) {
  auto flags = std::make_shared<MakeCheckpointFlags>();
  CLI::App* command = app.add_subcommand(
      "make-checkpoint", "write a random checkpoint with real names, shapes and formats");
  command->add_option("--preset", flags->preset,
                      "tiny; slice (one MoE layer of the 671B sizes, 12 GB); 671b-layers=N");
  command->add_option("--config", flags->config, "config.json to take the sizes from");
  command->add_option("--seed", flags->options.seed, "every byte depends on it (0)");
  command->add_option("--out", flags->options.out, "folder to write to; made if needed")
      ->required();
  command->add_option("--dtype", flags->dtype, "of the large matrices (as the config says)")
      ->check(CLI::IsMember({"fp8", "bf16", "f32"}));
  command->add_flag("--dry-run", flags->options.dry_run, "show the sizes, and stop");
  command
      ->add_option("--threads", flags->options.threads,
                   "threads (one a physical core, within a container's quota)")
      ->check(CLI::Range(1, 1024));
  on_run(*command, [flags] { return run_make_checkpoint(*flags); });
}

}  // namespace fathom::cli
