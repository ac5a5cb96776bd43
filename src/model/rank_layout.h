// How one model is spread over several ranks: which rank holds which part of every tensor. A rank
// is a GPU, or on a CPU a share of the processors. The loader, PlacedWeights and the memory plan
// use this header.
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
  int rank = 0;    // this rank, of tensor * data; consecutive ranks form a group
  // The number of processes, and the number of this one. Each process has the same number of
  // consecutive ranks: some whole groups, or an even part of one.
  int process = 0, processes = 1;

  int ranks() const { return tensor * data; }
  int group() const { return rank / tensor; }
  int place() const { return rank % tensor; }  // in its group
  RankLayout at(int other) const { return {tensor, data, other, process, processes}; }
  // The ranks of this process are [first_here(), first_here() + ranks_here()).
  int ranks_here() const { return ranks() / processes; }
  int first_here() const { return process * ranks_here(); }
  int place_here() const { return rank - first_here(); }  // among those
  // The groups that this process has ranks of: [first_group_here(), .. + groups_here()).
  int first_group_here() const { return first_here() / tensor; }
  int groups_here() const {
    return (first_here() + ranks_here() - 1) / tensor + 1 - first_group_here();
  }
  // A group lies in consecutive processes, with as many ranks in each.
  int group_ranks_here() const { return tensor < ranks_here() ? tensor : ranks_here(); }
  int group_processes() const { return tensor / group_ranks_here(); }
  int first_process_of(int group) const { return group * tensor / ranks_here(); }
  bool has_group(int group) const {
    const int at = group - first_group_here();
    return 0 <= at && at < groups_here();
  }
  // The layout of the first rank that this process has in a group.
  RankLayout in_group(int group) const {
    const int first = group * tensor;
    return at(first < first_here() ? first_here() : first);
  }
  std::string describe() const;  // "4 ranks of 2 processes"
  bool operator==(const RankLayout&) const = default;
};

// The rows and columns of a tensor that a rank holds; empty if it holds none.
struct TensorShare {
  int64_t row_begin = 0, row_end = 0, col_begin = 0, col_end = 0;

  int64_t rows() const { return row_end - row_begin; }
  int64_t cols() const { return col_end - col_begin; }
  bool empty() const { return rows() == 0 || cols() == 0; }
  bool operator==(const TensorShare&) const = default;
};

// Returns the part of a tensor that the layout's rank holds. Attention is split by heads, the
// output head by vocabulary. MLPs are split by intermediate columns, in whole FP8 blocks of 128: a
// cut inside a block would change the groups in which activations are quantised, and so the model.
// All else is whole on every rank, also the embedding: looking up a step's rows costs less than
// exchanging them.
TensorShare share_of(const TensorSpec& spec, const Config& whole, const RankLayout& layout);

// Whether every rank has a part of each expert. If not, each rank has some whole experts. That is
// so if there are several groups, and if the columns do not divide into whole blocks.
bool experts_by_columns(const Config& whole, const RankLayout& layout);

// The config that one rank computes with: its heads and its widths. The number of experts, the
// vocabulary and all else are the whole model's.
Config config_of_rank(const Config& whole, const RankLayout& layout);

// Throws Error if the model cannot be divided that way; it lists the layouts that are possible.
void check_layout(const Config& whole, const RankLayout& layout);

}  // namespace fathom
