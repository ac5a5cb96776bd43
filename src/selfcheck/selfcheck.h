// The self-check: a user proves with it that this build computes this checkpoint correctly on this
// machine. It is a list of checks, each with a sentence, a figure, a limit and a verdict. Nothing
// is compared with recorded values, so it works on any checkpoint. docs/numerics.md says where the
// limits come from.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/weights.h"
#include "runtime/model_instance.h"
#include "text/tokenizer.h"

namespace fathom {

enum class Verdict : uint8_t { passed, failed, skipped };

struct CheckResult {
  std::string id;      // "router.independent": group, then name
  std::string proves;  // in words
  std::string figure;  // what was measured; for a skipped check, why
  std::string limit;   // the limit that the figure must keep
  Verdict verdict = Verdict::failed;
};

// Groups in the order they run; `title` heads their lines in the table.
struct CheckGroup {
  std::string_view name, title;
};
std::span<const CheckGroup> selfcheck_groups();

struct SelfcheckOptions {
  // Only its device, kernels, threads and layout are used; the checks choose the rest. With a GPU,
  // bf16 and fp8 numerics are checked on the GPU and exact numerics on the CPU.
  ComputePlan compute;
  // In the host's memory, of the ranks of this process; for a layout of several ranks. With several
  // processes the others follow.
  RankWeights ranks;
  std::vector<std::string> only;  // groups to run; empty: all
  // Wraps the kernels, so that a test can inject one fault at a time.
  OpsWrapper wrap;
  std::function<void(const CheckResult&)> on_result;  // called as soon as a result is known
};

// `tokenizer` may be null. Throws Error when a named group does not exist.
std::vector<CheckResult> run_selfcheck(const Config& config, const Weights& weights,
                                       const Tokenizer* tokenizer, const SelfcheckOptions& options);

bool all_passed(std::span<const CheckResult> results);  // nothing failed

}  // namespace fathom
