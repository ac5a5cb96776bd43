// How one model is spread over several ranks: who holds which part of every tensor. A rank is a
// GPU, or on a CPU a share of the processors. Loader, placement and plans of memory ask here.
//
// `tensor` ranks form an attention group: each has a part of the heads and of the dense MLPs, and
// all of them keep the whole cache of the group's sequences. `data` such groups compute different
// sequences. Routed experts are spread over all ranks.
#pragma once

#include <cstdint>
#include <string>

#include "comm/comm.h"
#include "model/config.h"
#include "model/tensor_list.h"

namespace fathom {

struct RankLayout {
  int tensor = 1;  // ranks of an attention group
  int data = 1;    // attention groups
  int rank = 0;    // this one, of tensor * data; neighbours form a group
  // Processes that the ranks are dealt out to, as many neighbours to each, and which of them this
  // is. Several processes have one attention group.
  int process = 0, processes = 1;

  int ranks() const { return tensor * data; }
  int group() const { return rank / tensor; }
  int place() const { return rank % tensor; }  // in its group
  RankLayout at(int other) const { return {tensor, data, other, process, processes}; }
  // The ranks of this process are [first_here(), first_here() + ranks_here()).
  int ranks_here() const { return ranks() / processes; }
  int first_here() const { return process * ranks_here(); }
  int place_here() const { return rank - first_here(); }  // among those
  std::string describe() const;                           // "4 ranks of 2 processes"
  bool operator==(const RankLayout&) const = default;
};

// The rows and columns of a tensor that a rank holds; empty where all of it belongs to others.
struct TensorShare {
  int64_t row_begin = 0, row_end = 0, col_begin = 0, col_end = 0;

  int64_t rows() const { return row_end - row_begin; }
  int64_t cols() const { return col_end - col_begin; }
  bool empty() const { return rows() == 0 || cols() == 0; }
  bool operator==(const TensorShare&) const = default;
};

// Attention is split by heads, MLPs by their intermediate columns in whole FP8 blocks of 128 (a cut
// inside a block would quantise other groups of activations: another model), the head by
// vocabulary. All else is whole on every rank, the embedding too: looking up a step's rows costs
// less than an exchange of them.
TensorShare share_of(const TensorSpec& spec, const Config& whole, const RankLayout& layout);

// Whether every rank has a part of each expert. If not, each has some experts whole: where groups
// of ranks compute different sequences, and where the columns do not divide into whole blocks.
bool experts_by_columns(const Config& whole, const RankLayout& layout);

// The config that one rank computes with: its heads and its widths. Counts of experts, the
// vocabulary and all else stay the model's.
Config config_of_rank(const Config& whole, const RankLayout& layout);

// Throws Error for a layout that the model cannot be spread by, with the layouts that it can.
void check_layout(const Config& whole, const RankLayout& layout);

}  // namespace fathom
