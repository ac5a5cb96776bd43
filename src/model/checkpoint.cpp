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

constexpr size_t kMostProblems = 20;  // in one message

bool all_powers_of_two(const float* values, int64_t n) {
  return std::all_of(values, values + n, [](float v) {
    uint32_t bits = bits_of(v);
    return (bits & 0x807FFFFFu) == 0 && bits != 0 && bits != 0x7F800000u;
  });
}

int64_t blocks(int64_t n) { return (n + kFp8Block - 1) / kFp8Block; }

bool covers(const TensorPart& p, const TensorShare& s) {
  return p.row_begin <= s.row_begin && s.row_end <= p.row_end && p.col_begin <= s.col_begin &&
         s.col_end <= p.col_end;
}

bool overlaps(const TensorPart& p, const TensorShare& s) {
  return p.row_begin < s.row_end && s.row_begin < p.row_end && p.col_begin < s.col_end &&
         s.col_begin < p.col_end;
}

// Whether a part can be used where it lies; it is a matrix.
bool usable_in_place(const TensorPart& p) {
  return p.weight->aligned() && (!p.scale || p.col_begin % kFp8Block == 0);
}

// The one part that the share can be used from where it lies; null without one.
const TensorPart* place_of(const std::vector<TensorPart>& parts, const TensorShare& share) {
  for (const TensorPart& p : parts)
    if (covers(p, share) && usable_in_place(p)) return &p;
  return nullptr;
}

// What part and share have in common, to its place in the share.
void copy_common(const TensorPart& p, const TensorShare& s, size_t size, std::byte* to) {
  const int64_t width = p.col_end - p.col_begin;
  const int64_t begin = std::max(p.col_begin, s.col_begin), end = std::min(p.col_end, s.col_end);
  for (int64_t r = std::max(p.row_begin, s.row_begin); r < std::min(p.row_end, s.row_end); ++r)
    std::memcpy(to + static_cast<size_t>((r - s.row_begin) * s.cols() + begin - s.col_begin) * size,
                p.weight->data +
                    static_cast<size_t>((r - p.row_begin) * width + begin - p.col_begin) * size,
                static_cast<size_t>(end - begin) * size);
}

bool all_powers_of_two(const QWeight& w) {
  const int64_t width = blocks(w.cols);
  for (int64_t b = 0; b < blocks(w.rows + w.row_offset); ++b)
    if (!all_powers_of_two(w.scale + b * w.scale_stride, width)) return false;
  return true;
}

bool whole(const TensorSpec& spec, const TensorShare& s) {
  return s.rows() == spec.shape[0] && s.cols() == (spec.shape.size() > 1 ? spec.shape[1] : 1);
}

}  // namespace

int64_t bytes_to_own(const CheckpointFiles& files, const Config& c, const RankLayout& layout) {
  int64_t sum = 0;
  for (const TensorSpec& spec : tensor_list(c)) {
    std::vector<TensorPart> parts = find_parts(files, spec);
    if (!parts[0].weight) continue;
    if (spec.shape.size() == 1) {
      sum += static_cast<int64_t>(parts[0].weight->bytes);
      continue;
    }
    const int64_t size = static_cast<int64_t>(size_of(parts[0].weight->dtype));
    for (int i = 0; i < layout.ranks_here(); ++i) {
      const TensorShare share = share_of(spec, c, layout.at(layout.first_here() + i));
      if (share.empty() || place_of(parts, share)) continue;
      sum += share.rows() * share.cols() * size;
      if (whole(spec, share)) break;  // one copy for all ranks
    }
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
  if (!problems.empty()) {
    // A config of another model may give a problem for every tensor.
    const size_t shown = std::min(problems.size(), kMostProblems);
    fail("{}: {} problems:\n  {}{}", dir, problems.size(),
         fmt::join(problems.begin(), problems.begin() + static_cast<std::ptrdiff_t>(shown), "\n  "),
         shown < problems.size() ? "\n  ... (fathom inspect lists all)" : "");
  }

  check_layout(report.config, options.layout);

  int64_t needed = bytes_to_own(files, report.config, options.layout), free = available_memory();
  if (free > 0 && needed > free)
    fail(
        "{}: joining {} shards takes {} of memory, {} are available; a checkpoint converted with "
        "--model-parallel 1 stays on disk and is read as needed",
        dir, files.ranks(), bytes_text(needed), bytes_text(free));

  std::unique_ptr<Checkpoint> c(new Checkpoint(dir, std::move(files)));
  c->config_ = report.config;
  c->warnings_ = std::move(report.warnings);
  c->layout_ = options.layout;
  c->weights_.resize(static_cast<size_t>(options.layout.ranks_here()));
  for (size_t i = 0; i < c->weights_.size(); ++i) {
    const RankLayout layout = options.layout.at(options.layout.first_here() + static_cast<int>(i));
    Weights& weights = c->weights_[i];
    for_each_tensor(c->config_, weights, [&](const TensorSpec& spec, WeightSlot slot) {
      c->fill(spec, share_of(spec, c->config_, layout), slot);
    });
    for_each_layer(weights, [&](LayerWeights& l) { l.attention.kv_up.heads /= layout.tensor; });
  }
  return c;
}

RankWeights Checkpoint::rank_weights() const {
  std::vector<const Weights*> all;
  for (const Weights& w : weights_) all.push_back(&w);
  return RankWeights(std::move(all));
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
  if (layout_.processes == 1) {
    for (const SafetensorsFile& file : files_.files()) bytes += static_cast<int64_t>(file.bytes());
    return bytes;
  }
  for (const TensorSpec& spec : tensor_list(config_)) {
    const StoredTensor* stored = find_parts(files_, spec)[0].weight;
    if (!stored) continue;
    for (int i = 0; i < layout_.ranks_here(); ++i) {
      const TensorShare share = share_of(spec, config_, layout_.at(layout_.first_here() + i));
      bytes += share.rows() * share.cols() * static_cast<int64_t>(size_of(stored->dtype));
      if (whole(spec, share)) break;  // read by all ranks at one place
    }
  }
  return bytes;
}

void Checkpoint::fill(const TensorSpec& spec, const TensorShare& share, WeightSlot slot) {
  if (slot.vector) {
    // Every rank has all of a vector.
    auto [place, fresh] = vectors_.try_emplace(spec.name, nullptr);
    if (fresh) place->second = vector_of(spec);
    *slot.vector = place->second;
  } else if (!share.empty()) {
    *slot.matrix = matrix_of(spec, share);
  }
}

const float* Checkpoint::vector_of(const TensorSpec& spec) {
  TensorPart p = find_parts(files_, spec)[0];
  if (!p.weight) return nullptr;  // optional
  std::vector<float> values = to_floats(*p.weight);
  if (p.scale) {
    std::vector<float> scales = to_floats(*p.scale);
    for (size_t i = 0; i < values.size(); ++i) values[i] *= scales[i / kFp8Block];
  }
  return own(std::move(values));
}

QWeight Checkpoint::matrix_of(const TensorSpec& spec, const TensorShare& share) {
  const bool all = whole(spec, share);
  if (all)
    if (auto it = shared_.find(spec.name); it != shared_.end()) return it->second;
  std::vector<TensorPart> parts = find_parts(files_, spec);
  QWeight w;
  if (const TensorPart* p = place_of(parts, share)) {
    w = in_place(*p)
            .slice_rows(share.row_begin - p->row_begin, share.row_end - p->row_begin)
            .slice_columns(share.col_begin - p->col_begin, share.col_end - p->col_begin);
  } else {
    w = joined(spec, share, parts);
  }
  if (w.is_fp8()) w.pow2_scale = all_powers_of_two(w);
  if (all && layout_.ranks() > 1) shared_.emplace(spec.name, w);
  return w;
}

// A part of the files as a weight of its own.
QWeight Checkpoint::in_place(const TensorPart& p) {
  QWeight w;
  w.dtype = p.weight->dtype;
  w.rows = p.row_end - p.row_begin;
  w.cols = p.col_end - p.col_begin;
  w.data = p.weight->data;
  if (!w.is_fp8()) return w;
  w.row_offset = static_cast<int>(p.row_begin % kFp8Block);
  w.scale_stride = p.block_cols();
  const bool mapped = p.scale->dtype == DType::f32 && p.scale->aligned();
  w.scale = mapped ? reinterpret_cast<const float*>(p.scale->data) : own(to_floats(*p.scale));
  return w;
}

QWeight Checkpoint::joined(const TensorSpec& spec, const TensorShare& share,
                           const std::vector<TensorPart>& parts) {
  QWeight w;
  w.dtype = parts[0].weight->dtype;
  w.rows = share.rows();
  w.cols = share.cols();
  const size_t size = size_of(w.dtype);
  std::byte* to = own_bytes(static_cast<size_t>(w.rows * w.cols) * size);
  for (const TensorPart& p : parts)
    if (overlaps(p, share)) copy_common(p, share, size, to);
  w.data = to;
  if (!w.is_fp8()) return w;
  w.scale_stride = blocks(spec.shape[1]);
  w.scale = own(joined_scales(spec, parts)) + share.row_begin / kFp8Block * w.scale_stride +
            share.col_begin / kFp8Block;
  w.row_offset = static_cast<int>(share.row_begin % kFp8Block);
  return w;
}

}  // namespace fathom
