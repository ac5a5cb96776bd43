// Where a tensor lies in a checkpoint's files: whole, or in one part per shard.
#pragma once

#include <string>
#include <vector>

#include "model/checkpoint_files.h"
#include "model/tensor_list.h"
#include "numerics/fp8.h"

namespace fathom {

struct TensorPart {
  const StoredTensor* weight = nullptr;
  const StoredTensor* scale = nullptr;
  // The rows and columns of the full matrix that this part holds. Its scale covers every block that
  // they touch, so two parts may both have the scale of a block on their border.
  int64_t row_begin = 0, row_end = 0, col_begin = 0, col_end = 0;

  int64_t block_row() const { return row_begin / kFp8Block; }
  int64_t block_col() const { return col_begin / kFp8Block; }
  int64_t block_rows() const { return (row_end + kFp8Block - 1) / kFp8Block - block_row(); }
  int64_t block_cols() const { return (col_end + kFp8Block - 1) / kFp8Block - block_col(); }
};

// model.x.weight -> model.x.weight_scale_inv
std::string scale_name(const std::string& name);

// Returns the parts of a tensor: of a split tensor one per rank (empty if a shard lacks it), of an
// expert the part of the rank that holds it, of any other tensor the part of rank 0. Returns no
// parts if its size is not divisible by the number of ranks.
std::vector<TensorPart> find_parts(const CheckpointFiles& files, const TensorSpec& spec);

// The scales of the whole tensor, [ceil(rows / 128), ceil(cols / 128)].
std::vector<float> joined_scales(const TensorSpec& spec, const std::vector<TensorPart>& parts);

}  // namespace fathom
