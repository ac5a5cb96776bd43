// Plans where each byte of a Hugging Face checkpoint goes in the files of a model-parallel one. A
// pure function of the headers of the source's files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/source.h"
#include "io/safetensors.h"
#include "model/config.h"

namespace fathom {

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

// Rank's share of `n` rows, columns or experts; `ranks` divides n.
Range shard_range(int64_t n, int rank, int ranks);
// The 128-blocks that cover the elements of a range. If a shard ends inside a block, it and the
// next shard both have that block's scale.
Range covering_blocks(Range elements);

// A rectangle of a source tensor that becomes a whole tensor in one rank's file.
struct CopyTarget {
  int rank = 0;
  size_t tensor = 0;  // number in the rank's list
  Range rows;
  Range row_bytes;  // byte columns
};

struct CopyJob {
  size_t file = 0;
  uint64_t offset = 0;  // of row 0 in the source file
  int64_t rows = 0, row_bytes = 0;
  std::vector<CopyTarget> targets;
};

struct ShardPlan {
  std::vector<std::vector<TensorDecl>> ranks;
  std::vector<CopyJob> jobs;         // in the order of the source's files
  std::vector<std::string> dropped;  // source tensors that are left out on purpose
  std::vector<std::string> unknown;  // source tensors that the model does not have
};

// Throws an Error that lists every tensor that is missing, has a wrong shape or cannot be divided.
ShardPlan plan_shards(const Config& config, const Source& source, int ranks);

}  // namespace fathom
