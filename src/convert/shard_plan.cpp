#include "convert/shard_plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "base/error.h"
#include "model/tensor_list.h"
#include "numerics/fp8.h"

namespace fathom {
namespace {

constexpr const char* kScaleSuffix = "_scale_inv";
constexpr size_t kShownProblems = 200;

bool is_float(DType t) {
  return t == DType::f32 || t == DType::bf16 || t == DType::f16 || t == DType::fp8_e4m3;
}

class Planner {
 public:
  Planner(const Config& config, const Source& source, int ranks)
      : config_(config), source_(source), ranks_(ranks) {
    plan_.ranks.resize(ranks);
  }

  ShardPlan run() {
    check_division();
    for (const TensorSpec& spec : tensor_list(config_)) add(spec);
    sort_out_the_rest();
    if (!problems_.empty()) report();
    std::stable_sort(plan_.jobs.begin(), plan_.jobs.end(), [](const auto& a, const auto& b) {
      return std::tie(a.file, a.offset) < std::tie(b.file, b.offset);
    });
    return std::move(plan_);
  }

 private:
  void check_division() {
    auto divides = [&](int64_t n, const char* what) {
      if (n % ranks_ != 0)
        problems_.push_back(
            fmt::format("{} = {} is not divisible by model parallel {}", what, n, ranks_));
    };
    divides(config_.experts, "n_routed_experts");
    divides(config_.heads, "num_attention_heads");
    divides(config_.vocab, "vocab_size");
    if (config_.dense_layers > 0) divides(config_.intermediate, "intermediate_size");
    if (config_.experts > 0 && config_.shared_experts > 0)
      divides(1LL * config_.moe_intermediate * config_.shared_experts,
              "moe_intermediate_size * n_shared_experts");
    divisible_ = problems_.empty();
  }

  void add(const TensorSpec& spec) {
    std::string scale_name = spec.name + kScaleSuffix;
    auto weight = source_.tensors.find(spec.name), scale = source_.tensors.find(scale_name);
    bool has_scale = scale != source_.tensors.end();
    used_.insert(spec.name);
    used_.insert(scale_name);
    const bool foreign = refuse_foreign(spec.name), foreign_scale = refuse_foreign(scale_name);
    if (foreign || foreign_scale) return;
    if (weight == source_.tensors.end()) {
      if (has_scale) problems_.push_back(fmt::format("{} has no weight", scale_name));
      if (!spec.optional && !has_scale) problems_.push_back(fmt::format("missing: {}", spec.name));
      return;
    }
    const SourceTensor& t = weight->second;
    bool good = check_shape(spec.name, t, spec.shape);
    if (!is_float(t.dtype))
      problems_.push_back(
          fmt::format("{}: dtype is {}, expected a float", spec.name, name_of(t.dtype)));
    bool fp8 = t.dtype == DType::fp8_e4m3;
    if (has_scale && !fp8)
      problems_.push_back(
          fmt::format("{} belongs to a weight of {}, not FP8", scale_name, name_of(t.dtype)));
    if (fp8 && !has_scale)
      problems_.push_back(fmt::format("missing: {} (the weight is FP8)", scale_name));
    if (fp8 && has_scale) {
      std::vector<int64_t> blocks;
      for (int64_t n : spec.shape) blocks.push_back(covering_blocks({0, n}).end);
      good &= check_shape(scale_name, scale->second, blocks);
    }
    if (!good || !divisible_) return;
    place(spec, spec.name, t, false);
    if (fp8 && has_scale) place(spec, scale_name, scale->second, true);
  }

  bool refuse_foreign(const std::string& name) {
    auto t = source_.foreign.find(name);
    if (t == source_.foreign.end()) return false;
    problems_.push_back(fmt::format("{}: dtype is {}, expected a float", name, t->second.dtype));
    return true;
  }

  bool check_shape(const std::string& name, const SourceTensor& t,
                   const std::vector<int64_t>& expected) {
    if (t.shape == expected) return true;
    problems_.push_back(fmt::format("{}: shape is {}, expected {}", name, shape_text(t.shape),
                                    shape_text(expected)));
    return false;
  }

  // A weight, or the scales of one, which follow its split in units of blocks.
  void place(const TensorSpec& spec, const std::string& name, const SourceTensor& t, bool scale) {
    CopyJob job{t.file, t.offset, t.shape[0], static_cast<int64_t>(t.bytes) / t.shape[0], {}};
    for (int rank = 0; rank < ranks_; ++rank) {
      Range experts = shard_range(config_.experts, rank, ranks_);
      if (spec.split == Split::expert &&
          (spec.expert < experts.begin || spec.expert >= experts.end))
        continue;
      std::vector<int64_t> shape = t.shape;
      auto part = [&](size_t dim) {
        Range elements = shard_range(spec.shape[dim], rank, ranks_);
        Range units = scale ? covering_blocks(elements) : elements;
        shape[dim] = units.size();
        return units;
      };
      CopyTarget target{rank, plan_.ranks[rank].size(), {0, job.rows}, {0, job.row_bytes}};
      if (spec.split == Split::rows) target.rows = part(0);
      if (spec.split == Split::cols) {
        Range columns = part(1);
        auto size = static_cast<int64_t>(size_of(t.dtype));
        target.row_bytes = {columns.begin * size, columns.end * size};
      }
      plan_.ranks[rank].push_back({converted_name(name), t.dtype, shape});
      job.targets.push_back(target);
    }
    plan_.jobs.push_back(std::move(job));
  }

  // Sorts the source's unused tensors. The MTP layer's copies of embedding and head are dropped,
  // since the main model's are used. Without an MTP layer in `config_` all its tensors are dropped.
  // Others are unknown.
  void sort_out_the_rest() {
    std::string mtp = fmt::format("model.layers.{}.", config_.layers);
    std::set<std::string> copies = {mtp + "embed_tokens.weight", mtp + "shared_head.head.weight"};
    const auto leave_out = [&](const std::string& name) {
      if (used_.count(name)) return;
      bool known = copies.count(name) || (config_.mtp_layers == 0 && name.starts_with(mtp));
      (known ? plan_.dropped : plan_.unknown).push_back(name);
    };
    for (const auto& [name, tensor] : source_.tensors) leave_out(name);
    for (const auto& [name, tensor] : source_.foreign) leave_out(name);
  }

  [[noreturn]] void report() {
    size_t n = problems_.size();
    if (n > kShownProblems) {
      problems_.resize(kShownProblems);
      problems_.push_back(fmt::format("... and {} more", n - kShownProblems));
    }
    fail("{}: {} problem{}:\n  {}", source_.dir, n, n == 1 ? "" : "s",
         fmt::join(problems_, "\n  "));
  }

  const Config& config_;
  const Source& source_;
  int ranks_;
  ShardPlan plan_;
  std::set<std::string> used_;
  std::vector<std::string> problems_;
  bool divisible_ = true;
};

}  // namespace

Range shard_range(int64_t n, int rank, int ranks) {
  int64_t share = n / ranks;
  return {rank * share, (rank + 1) * share};
}

Range covering_blocks(Range elements) {
  return {elements.begin / kFp8Block, (elements.end + kFp8Block - 1) / kFp8Block};
}

ShardPlan plan_shards(const Config& config, const Source& source, int ranks) {
  return Planner(config, source, ranks).run();
}

}  // namespace fathom
