#include "model/tensor_parts.h"

#include <algorithm>

#include "numerics/fp8.h"

namespace fathom {

std::string scale_name(const std::string& name) { return name + "_scale_inv"; }

std::vector<TensorPart> find_parts(const CheckpointFiles& files, const TensorSpec& spec) {
  // Vectors are columns of height n here: [n] is n x 1 and never split.
  int64_t rows = spec.shape[0], cols = spec.shape.size() > 1 ? spec.shape[1] : 1;
  int ranks = files.ranks();
  std::string scale = scale_name(spec.name);
  auto part_of = [&](int rank) {
    return TensorPart{files.find(spec.name, rank), files.find(scale, rank), 0, rows, 0, cols};
  };
  std::vector<TensorPart> parts;
  if (ranks == 1 || spec.split == Split::none) {
    parts.push_back(part_of(0));
  } else if (spec.split == Split::expert) {
    auto has = [&](int rank) { return files.find(spec.name, rank) || files.find(scale, rank); };
    int rank = 0;
    while (rank < ranks - 1 && !has(rank)) ++rank;
    parts.push_back(part_of(rank));
  } else {
    bool by_rows = spec.split == Split::rows;
    int64_t share = (by_rows ? rows : cols) / ranks;
    if (share * ranks != (by_rows ? rows : cols)) return {};
    for (int r = 0; r < ranks; ++r) {
      TensorPart p = part_of(r);
      (by_rows ? p.row_begin : p.col_begin) = r * share;
      (by_rows ? p.row_end : p.col_end) = (r + 1) * share;
      parts.push_back(p);
    }
  }
  return parts;
}

std::vector<float> joined_scales(const TensorSpec& spec, const std::vector<TensorPart>& parts) {
  int64_t rows = spec.shape[0], cols = spec.shape.size() > 1 ? spec.shape[1] : 1;
  int64_t height = (rows + kFp8Block - 1) / kFp8Block, width = (cols + kFp8Block - 1) / kFp8Block;
  std::vector<float> all(height * width);
  for (const TensorPart& p : parts) {
    std::vector<float> scales = to_floats(*p.scale);
    for (int64_t i = 0; i < p.block_rows(); ++i)
      std::copy_n(&scales[i * p.block_cols()], p.block_cols(),
                  &all[(p.block_row() + i) * width + p.block_col()]);
  }
  return all;
}

}  // namespace fathom
