#include "convert/convert.h"
#include "base/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/progress.h"
#include "cli/command.h"
#include "cli/options.h"

namespace fathom::cli {
namespace {

int run_convert(const ConvertOptions& options) {
  say_threads(options.threads);
  ConvertResult result =
      convert(options, [](const std::string& line) { fmt::print("{}\n", line); });
  switch (result.state) {
    case ConvertResult::State::planned:
      fmt::print("dry run: nothing was written\n");
      break;
    case ConvertResult::State::already_done:
      fmt::print("already done: {} is up to date\n", options.save);
      break;
    case ConvertResult::State::written: {
      auto rate = static_cast<double>(result.read_bytes) / std::max(result.seconds, 1e-3);
      fmt::print("done: {} read, {} in {}, {:.1f} s ({})\n", bytes_text(result.read_bytes),
                 bytes_text(result.written_bytes), options.save, result.seconds, rate_text(rate));
      break;
    }
  }
  return 0;
}

}  // namespace

void add_convert(CLI::App& app) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = app.add_subcommand(
      "convert", "split a Hugging Face checkpoint into model-parallel shards, as the release does");
  command->add_option("--hf-ckpt-path", options->source, "Hugging Face folder")->required();
  command->add_option("--save-path", options->save, "folder to write to; made if needed")
      ->required();
  command->add_option("--n-experts", options->experts, "routed experts of the model")->required();
  command->add_option("--model-parallel", options->ranks, "ranks to split for")
      ->required()
      ->check(CLI::Range(1, 4096));
  command->add_flag("--drop-mtp", options->drop_mtp, "leave the multi-token prediction layer out");
  command->add_flag("--dry-run", options->dry_run, "show what would be written, and stop");
  command
      ->add_option("--threads", options->threads,
                   "copying threads (one a physical core, within a container's quota)")
      ->check(CLI::Range(1, 1024));
  on_run(*command, [options] { return run_convert(*options); });
}

}  // namespace fathom::cli
