#include "model/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/units.h"
#include "io/machine.h"
#include "model/tensor_list.h"
#include "model/tensor_parts.h"

namespace fathom {
namespace {

bool all_powers_of_two(const float* values, int64_t n) {
  return std::all_of(values, values + n, [](float v) {
    uint32_t bits = bits_of(v);
    return (bits & 0x807FFFFFu) == 0 && bits != 0 && bits != 0x7F800000u;
  });
}

int64_t blocks(int64_t n) { return (n + kFp8Block - 1) / kFp8Block; }

// Columns of all parts side by side, or rows one below the other: both are rectangles of `to`.
void copy_part(const TensorPart& p, int64_t cols, size_t size, std::byte* to) {
  size_t width = static_cast<size_t>(p.col_end - p.col_begin) * size;
  for (int64_t r = p.row_begin; r < p.row_end; ++r)
    std::memcpy(to + static_cast<size_t>(r * cols + p.col_begin) * size,
                p.weight->data + static_cast<size_t>(r - p.row_begin) * width, width);
}

}  // namespace

int64_t bytes_to_own(const CheckpointFiles& files, const Config& c) {
  int64_t sum = 0;
  for (const TensorSpec& spec : tensor_list(c)) {
    std::vector<TensorPart> parts = find_parts(files, spec);
    if (!parts[0].weight) continue;
    for (const TensorPart& p : parts)
      if (parts.size() > 1 || spec.shape.size() == 1 || !p.weight->aligned())
        sum += static_cast<int64_t>(p.weight->bytes);
  }
  return sum;
}

std::unique_ptr<Checkpoint> Checkpoint::load(const std::string& dir,
                                             const CheckpointOptions& options) {
  // The config first: it gives the clearest message for a folder that is no checkpoint.
  Config config = load_config(dir, options.config_file);
  CheckpointFiles files = CheckpointFiles::open(dir);
  CheckpointReport report = check_checkpoint(files, config, options);
  const auto& problems = report.problems;
  if (problems.size() == 1) fail("{}: {}", dir, problems[0]);
  if (!problems.empty())
    fail("{}: {} problems:\n  {}", dir, problems.size(), fmt::join(problems, "\n  "));

  int64_t needed = bytes_to_own(files, report.config), free = available_memory();
  if (free > 0 && needed > free)
    fail(
        "{}: joining {} shards takes {} of memory, {} are available; a checkpoint converted with "
        "--model-parallel 1 stays on disk and is read as needed",
        dir, files.ranks(), bytes_text(needed), bytes_text(free));

  std::unique_ptr<Checkpoint> c(new Checkpoint(dir, std::move(files)));
  c->config_ = report.config;
  c->warnings_ = std::move(report.warnings);
  for_each_tensor(c->config_, c->weights_,
                  [&](const TensorSpec& spec, WeightSlot slot) { c->fill(spec, slot); });
  return c;
}

const float* Checkpoint::own(std::vector<float> values) {
  owned_bytes_ += static_cast<int64_t>(values.size() * sizeof(float));
  return floats_.emplace_back(std::move(values)).data();
}

std::byte* Checkpoint::own_bytes(size_t bytes) {
  owned_bytes_ += static_cast<int64_t>(bytes);
  return buffers_.emplace_back(bytes).data();
}

int64_t Checkpoint::mapped_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsFile& file : files_.files()) bytes += static_cast<int64_t>(file.bytes());
  return bytes;
}

void Checkpoint::fill(const TensorSpec& spec, WeightSlot slot) {
  if (slot.vector)
    fill_vector(spec, *slot.vector);
  else
    fill_matrix(spec, *slot.matrix);
}

void Checkpoint::fill_vector(const TensorSpec& spec, const float*& slot) {
  TensorPart p = find_parts(files_, spec)[0];
  if (!p.weight) return;  // optional: stays null
  std::vector<float> values = to_floats(*p.weight);
  if (p.scale) {
    std::vector<float> scales = to_floats(*p.scale);
    for (size_t i = 0; i < values.size(); ++i) values[i] *= scales[i / kFp8Block];
  }
  slot = own(std::move(values));
}

void Checkpoint::fill_matrix(const TensorSpec& spec, QWeight& w) {
  std::vector<TensorPart> parts = find_parts(files_, spec);
  const StoredTensor& first = *parts[0].weight;
  w.dtype = first.dtype;
  w.rows = spec.shape[0];
  w.cols = spec.shape[1];
  size_t size = size_of(w.dtype);
  if (parts.size() == 1 && first.aligned()) {
    w.data = first.data;
  } else {
    std::byte* to = own_bytes(static_cast<size_t>(w.rows * w.cols) * size);
    for (const TensorPart& p : parts) copy_part(p, w.cols, size, to);
    w.data = to;
  }
  if (!w.is_fp8()) return;
  const StoredTensor& scale = *parts[0].scale;
  w.scale_stride = blocks(w.cols);
  bool in_place = parts.size() == 1 && scale.dtype == DType::f32 && scale.aligned();
  w.scale = in_place ? reinterpret_cast<const float*>(scale.data) : own(joined_scales(spec, parts));
  w.pow2_scale = all_powers_of_two(w.scale, blocks(w.rows) * w.scale_stride);
}

}  // namespace fathom
