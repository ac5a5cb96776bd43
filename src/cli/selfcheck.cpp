// fathom selfcheck: proves, on this machine and with this checkpoint, that the model is computed as
// it should be.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/processes.h"
#include "cli/terminal.h"
#include "kernels/cpu_ops.h"
#include "kernels/gpu.h"
#include "model/checkpoint.h"
#include "model/footprint.h"
#include "selfcheck/selfcheck.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::ordered_json;

struct SelfcheckFlags {
  std::string dir, config;
  ComputeOptions compute;  // only device, kernels and threads can be set
  SelfcheckOptions check;
  bool json = false;
};

std::string_view word(Verdict v) {
  return v == Verdict::passed ? "ok" : v == Verdict::failed ? "FAILED" : "-";
}

// Says in the report which kernels compute what.
std::string kernels_of(const SelfcheckOptions& o) {
  const std::string_view cpu = pick_cpu_kernels(o.compute.kernels).name;
  if (o.compute.device == DeviceKind::cpu) return fmt::format("{} kernels", cpu);
  return fmt::format(
      "bf16 and fp8 on the {}, exact with {} kernels; checks of single ops with made-up inputs on "
      "the reference, which the GPU is compared with",
      find_gpu().name, cpu);
}

std::string_view group_of(const CheckResult& r) {
  return std::string_view(r.id).substr(0, r.id.find('.'));
}

// One line a check, under the title of its group.
class Table {
 public:
  void print(const CheckResult& r) {
    if (group_of(r) != group_) {
      group_ = group_of(r);
      for (const CheckGroup& g : selfcheck_groups())
        if (g.name == group_) fmt::print("\n{}: {}\n", g.name, g.title);
    }
    std::string limit = r.limit.empty() ? "" : fmt::format("limit {}", r.limit);
    fmt::print("  {:6}  {:66}  {:42}  {}\n", word(r.verdict), r.proves, r.figure, limit);
    check_output();
  }

 private:
  std::string group_;
};

struct Count {
  int passed = 0, failed = 0, skipped = 0;
};

Count count(const std::vector<CheckResult>& results) {
  Count n;
  for (const CheckResult& r : results)
    ++(r.verdict == Verdict::passed   ? n.passed
       : r.verdict == Verdict::failed ? n.failed
                                      : n.skipped);
  return n;
}

void print_json(const std::vector<CheckResult>& results, const SelfcheckFlags& o, double seconds) {
  Json checks = Json::array();
  for (const CheckResult& r : results)
    checks.push_back({{"id", r.id},
                      {"proves", r.proves},
                      {"figure", r.figure},
                      {"limit", r.limit},
                      {"verdict", r.verdict == Verdict::passed   ? "passed"
                                  : r.verdict == Verdict::failed ? "failed"
                                                                 : "skipped"}});
  Json report = {{"checkpoint", o.dir},
                 {"device", name_of(o.check.compute.device)},
                 {"kernels", pick_cpu_kernels(o.check.compute.kernels).name},
                 {"passed", all_passed(results)},
                 {"seconds", seconds},
                 {"checks", checks}};
  fmt::print("{}\n", report.dump(2, ' ', false, Json::error_handler_t::replace));
}

int run(const SelfcheckFlags& o) {
  auto start = std::chrono::steady_clock::now();
  check_processes(o.dir, o.config, o.check.compute);
  std::unique_ptr<Checkpoint> checkpoint = Checkpoint::load(o.dir, {.config_file = o.config});
  std::optional<Tokenizer> tokenizer;
  if (std::filesystem::exists(std::filesystem::path(o.dir) / "tokenizer.json"))
    tokenizer = Tokenizer::from_folder(o.dir);
  const Config& c = checkpoint->config();
  say_computing_threads(o.compute.threads);

  SelfcheckOptions options = o.check;
  std::unique_ptr<Checkpoint> ranks;  // of the same files, in parts
  if (options.compute.layout.ranks() > 1) {
    CheckpointOptions loading;
    loading.config_file = o.config;
    loading.layout = options.compute.layout;
    ranks = Checkpoint::load(o.dir, loading);
    options.ranks = ranks->rank_weights();
  }
  Table table;
  if (!o.json) {
    fmt::print("fathom selfcheck {}: {}, {} layers, {:.4g} M parameters, {}\n", o.dir, c.model_type,
               c.layers, 1e-6 * static_cast<double>(count_parameters(c).total),
               kernels_of(o.check));
    options.on_result = [&](const CheckResult& r) { table.print(r); };
  }
  std::vector<CheckResult> results =
      run_selfcheck(c, checkpoint->weights(), tokenizer ? &*tokenizer : nullptr, options);
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (o.json) {
    print_json(results, o, seconds);
  } else {
    Count n = count(results);
    fmt::print("\n{}: {} checks passed, {} failed, {} not applicable, in {:.1f} s\n",
               n.failed ? "FAILED" : "PASSED", n.passed, n.failed, n.skipped, seconds);
  }
  return all_passed(results) ? 0 : 1;
}

}  // namespace

void add_selfcheck(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "selfcheck", "prove that this machine computes this checkpoint as it should");
  auto o = std::make_shared<SelfcheckFlags>();
  command->add_option("--ckpt-path", o->dir, "folder of the checkpoint")->required();
  command->add_option("--config", o->config, "config file, in place of the folder's config.json");
  o->compute.add_device_to(*command);
  o->compute.add_ranks_to(*command);
  o->compute.add_groups_to(*command);
  std::vector<std::string> kernels, groups;
  for (const CpuKernels& k : cpu_kernels()) kernels.emplace_back(k.name);
  for (const CheckGroup& g : selfcheck_groups()) groups.emplace_back(g.name);
  command
      ->add_option("--kernels", o->compute.kernels, "kernels to check (default: the best usable)")
      ->check(CLI::IsMember(kernels));
  command->add_option("--threads", o->compute.threads, kThreadsHelp)
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_option("--only", o->check.only, "groups of checks to run (default: all)")
      ->delimiter(',')
      ->check(CLI::IsMember(groups));
  command->add_flag("--json", o->json, "print the report as JSON");
  on_run(*command, [o] {
    o->check.compute = o->compute.plan();
    return run(*o);
  });
}

}  // namespace fathom::cli
