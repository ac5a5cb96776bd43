// Finds everything that is wrong with a checkpoint before anything of it is used.
#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "model/checkpoint.h"
#include "model/tensor_parts.h"

namespace fathom {
namespace {

bool is_float(DType t) {
  return t == DType::f32 || t == DType::bf16 || t == DType::f16 || t == DType::fp8_e4m3;
}

class Checker {
 public:
  Checker(const CheckpointFiles& files, CheckpointReport& report)
      : files_(files), report_(report) {}

  void tensor(const TensorSpec& spec) {
    known_.insert(files_.stored_name(spec.name));
    known_.insert(files_.stored_name(scale_name(spec.name)));
    std::vector<TensorPart> parts = find_parts(files_, spec);
    if (parts.empty())
      return problem("cannot be divided: {} of shape {} over {} shards", spec.name,
                     shape_text(spec.shape), files_.ranks());
    size_t before = report_.problems.size();
    for (size_t rank = 0; rank < parts.size(); ++rank) {
      const TensorPart& p = parts[rank];
      if (foreign(spec.name, static_cast<int>(rank), "one of F32 BF16 F16 F8_E4M3") ||
          foreign(scale_name(spec.name), static_cast<int>(rank), "F32"))
        continue;
      if (!p.weight && spec.optional && !p.scale) return;
      if (!p.weight)
        problem("missing: {} {}{}{}", spec.name, shape_text(spec.shape),
                parts.size() > 1 ? fmt::format(" in shard {}", rank) : "",
                p.scale ? ", though its scale is there" : "");
      else
        part(spec, p);
    }
    if (report_.problems.size() > before || parts.size() == 1) return;
    for (const TensorPart& p : parts)
      if (p.weight->dtype != parts[0].weight->dtype)
        return problem("shards disagree: {} is {} in {} and {} in {}", spec.name,
                       name_of(parts[0].weight->dtype), parts[0].weight->file,
                       name_of(p.weight->dtype), p.weight->file);
    if (parts[0].scale) shared_blocks(spec, parts);
  }

  // Tensors of the files that are in no list.
  void extras(const Config& c, bool mtp_wanted) {
    std::string mtp = files_.stored_name(fmt::format("model.layers.{}.", c.layers));
    std::unordered_set<std::string> seen;
    bool unused_mtp = false;
    const auto extra = [&](const std::string& name, std::string_view dtype, const auto& t) {
      if (known_.count(name) || !seen.insert(name).second) return;
      bool in_mtp = name.compare(0, mtp.size(), mtp) == 0;
      if (name.ends_with("rotary_emb.inv_freq")) return;  // recomputed from the config
      if (in_mtp && c.mtp_layers == 0)
        unused_mtp = true;
      else if (!(in_mtp && is_copy(name.substr(mtp.size()))))
        report_.warnings.push_back(fmt::format("extra, not used: {} {}{} in {}", printable(name),
                                               dtype, shape_text(t.shape), t.file));
    };
    for (const SafetensorsFile& file : files_.files()) {
      for (const StoredTensor& t : file.tensors()) extra(t.name, "", t);
      for (const ForeignTensor& t : file.foreign()) extra(t.name, t.dtype + " ", t);
    }
    if (unused_mtp && mtp_wanted)
      report_.warnings.push_back(
          fmt::format("layer {} (MTP) is in the files but not in the config: not used", c.layers));
  }

 private:
  template <class... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    report_.problems.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  // Whether a tensor that is needed has a dtype that nothing here computes with: a problem.
  bool foreign(const std::string& name, int rank, const char* expected) {
    const ForeignTensor* t = files_.find_foreign(name, rank);
    if (t) problem("unknown dtype: {} is {}, expected {} ({})", name, t->dtype, expected, t->file);
    return t != nullptr;
  }

  // The MTP layer repeats the embedding and the head of the main model.
  static bool is_copy(const std::string& name) {
    return name == "embed_tokens.weight" || name == "embed.weight" ||
           name == "shared_head.head.weight" || name == "head.weight";
  }

  void part(const TensorSpec& spec, const TensorPart& p) {
    const StoredTensor& t = *p.weight;
    std::vector<int64_t> expected = {p.row_end - p.row_begin};
    if (spec.shape.size() > 1) expected.push_back(p.col_end - p.col_begin);
    if (t.shape != expected)
      problem("misshapen: {} is {}, expected {} ({})", spec.name, shape_text(t.shape),
              shape_text(expected), t.file);
    if (!is_float(t.dtype))
      return problem("unknown dtype: {} is {}, expected one of F32 BF16 F16 F8_E4M3 ({})",
                     spec.name, name_of(t.dtype), t.file);
    bool fp8 = t.dtype == DType::fp8_e4m3;
    if (fp8 && !p.scale)
      problem("no scale: {} is F8_E4M3, {} is missing ({})", spec.name, scale_name(spec.name),
              t.file);
    if (!fp8 && p.scale)
      problem("scale without an FP8 weight: {} is {}, yet {} exists ({})", spec.name,
              name_of(t.dtype), scale_name(spec.name), p.scale->file);
    if (fp8 && p.scale) scale(spec, p);
  }

  void scale(const TensorSpec& spec, const TensorPart& p) {
    const StoredTensor& s = *p.scale;
    std::vector<int64_t> expected = {p.block_rows()};
    if (spec.shape.size() > 1) expected.push_back(p.block_cols());
    if (!is_float(s.dtype) || s.dtype == DType::fp8_e4m3)
      return problem("unknown dtype: {} is {}, expected F32 ({})", scale_name(spec.name),
                     name_of(s.dtype), s.file);
    if (s.shape != expected)
      return problem("misshapen: {} is {}, expected {} ({})", scale_name(spec.name),
                     shape_text(s.shape), shape_text(expected), s.file);
    std::vector<float> values = to_floats(s);
    auto bad =
        std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    if (bad != values.end())
      problem("not a number: {} holds {} at {} ({})", scale_name(spec.name), *bad,
              bad - values.begin(), s.file);
  }

  // Two shards may share a block at their border. Both then have its scale, which must be equal.
  void shared_blocks(const TensorSpec& spec, const std::vector<TensorPart>& parts) {
    std::vector<float> all = joined_scales(spec, parts);
    int64_t width = (spec.shape[1] + kFp8Block - 1) / kFp8Block;
    for (const TensorPart& p : parts) {
      std::vector<float> own = to_floats(*p.scale);
      for (int64_t i = 0; i < p.block_rows(); ++i)
        for (int64_t j = 0; j < p.block_cols(); ++j)
          if (own[i * p.block_cols() + j] != all[(p.block_row() + i) * width + p.block_col() + j])
            return problem("shards disagree: {} about block ({}, {}) ({})", scale_name(spec.name),
                           p.block_row() + i, p.block_col() + j, p.scale->file);
    }
  }

  const CheckpointFiles& files_;
  CheckpointReport& report_;
  std::unordered_set<std::string> known_;
};

bool has_mtp_tensors(const CheckpointFiles& files, const std::vector<TensorSpec>& list, int layer) {
  std::string prefix = fmt::format("model.layers.{}.", layer);
  for (const TensorSpec& spec : list)
    if (spec.name.compare(0, prefix.size(), prefix) == 0)
      for (int r = 0; r < files.ranks(); ++r)
        if (files.find(spec.name, r) || files.find_foreign(spec.name, r)) return true;
  return false;
}

}  // namespace

CheckpointReport check_checkpoint(const CheckpointFiles& files, const Config& config,
                                  const CheckpointOptions& options) {
  CheckpointReport report;
  report.config = config;
  Config& c = report.config;
  report.problems = files.problems();
  report.warnings = files.warnings();
  if (!options.with_mtp) {
    c.mtp_layers = 0;
  } else if (c.mtp_layers > 0 && !has_mtp_tensors(files, tensor_list(c), c.layers)) {
    report.warnings.push_back(fmt::format(
        "the config has an MTP layer, the files have not: layer {} is left out", c.layers));
    c.mtp_layers = 0;
  }
  Checker checker(files, report);
  for (const TensorSpec& spec : tensor_list(c)) checker.tensor(spec);
  checker.extras(c, options.with_mtp);
  return report;
}

}  // namespace fathom
