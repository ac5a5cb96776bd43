#include "model/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
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

// in [rows, cols] with a row stride -> out [cols, rows], in squares that fit the nearest cache.
template <class T>
void transpose(const T* in, int64_t stride, int64_t rows, int64_t cols, T* out) {
  constexpr int64_t kSquare = 32;
  for (int64_t i = 0; i < rows; i += kSquare)
    for (int64_t j = 0; j < cols; j += kSquare)
      for (int64_t c = j; c < std::min(j + kSquare, cols); ++c)
        for (int64_t r = i; r < std::min(i + kSquare, rows); ++r)
          out[c * rows + r] = in[r * stride + c];
}

template <class T>
void transpose_heads(const KvUpWeights& w, T* out) {
  for (int64_t h = 0; h < w.heads; ++h)
    transpose(w.kv_b.row<T>(h * (w.nope + w.value)), w.latent, w.nope, w.latent,
              out + h * w.latent * w.nope);
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
    if (spec.name.ends_with("kv_b_proj.weight"))
      sum += int64_t{c.heads} * c.nope * c.latent *
             static_cast<int64_t>(size_of(parts[0].weight->dtype));
  }
  return sum;
}

std::unique_ptr<Checkpoint> Checkpoint::load(const std::string& dir,
                                             const CheckpointOptions& options) {
  // The config first: the plainest message for a folder that is something else.
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
  for (LayerWeights& layer : c->weights_.layers) c->transpose_keys(layer.attention.kv_up);
  if (c->weights_.mtp) c->transpose_keys(c->weights_.mtp->block.attention.kv_up);
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

// kv_up.k_up_t: the key rows of every head, transposed. FP8 codes keep their blocks' scales when
// blocks do not straddle heads or parts; otherwise the values are dequantised to float32.
void Checkpoint::transpose_keys(KvUpWeights& u) {
  const QWeight& from = u.kv_b;
  QWeight& to = u.k_up_t;
  to.rows = int64_t{u.heads} * u.latent;
  to.cols = u.nope;
  bool blocks_stay =
      u.nope % kFp8Block == 0 && u.value % kFp8Block == 0 && u.latent % kFp8Block == 0;
  to.dtype = from.is_fp8() && !blocks_stay ? DType::f32 : from.dtype;
  std::byte* out = own_bytes(static_cast<size_t>(to.rows * to.cols) * size_of(to.dtype));
  to.data = out;
  if (!from.is_fp8()) {
    if (from.dtype == DType::f32)
      transpose_heads(u, reinterpret_cast<float*>(out));
    else
      transpose_heads(u, reinterpret_cast<uint16_t*>(out));
    return;
  }
  if (blocks_stay) {
    transpose_heads(u, reinterpret_cast<uint8_t*>(out));
    int64_t high = u.nope / kFp8Block, wide = u.latent / kFp8Block;
    std::vector<float> scales(u.heads * high * wide);
    for (int64_t h = 0; h < u.heads; ++h)
      transpose(from.scales_of_row(h * (u.nope + u.value)), from.scale_stride, high, wide,
                &scales[h * high * wide]);
    to.scale = own(std::move(scales));
    to.scale_stride = high;
    to.pow2_scale = from.pow2_scale;
    return;
  }
  float* values = reinterpret_cast<float*>(out);
  for (int64_t h = 0; h < u.heads; ++h)
    for (int64_t r = 0; r < u.nope; ++r) {
      int64_t row = h * (u.nope + u.value) + r;
      const float* scales = from.scales_of_row(row);
      for (int64_t c = 0; c < u.latent; ++c)
        values[(h * u.latent + c) * u.nope + r] =
            fp8_to_float(from.row<uint8_t>(row)[c]) * scales[c / kFp8Block];
    }
}

}  // namespace fathom
