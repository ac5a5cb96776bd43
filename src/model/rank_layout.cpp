#include "model/rank_layout.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "numerics/fp8.h"

namespace fathom {
namespace {

constexpr int kMostRanks = 1024;

// Part of n columns in whole blocks of 128; the last block may be shorter.
PartRange blocks_of(int64_t n, int part, int parts) {
  const PartRange blocks = part_of((n + kFp8Block - 1) / kFp8Block, part, parts);
  return {std::min(n, blocks.begin * kFp8Block), std::min(n, blocks.end * kFp8Block)};
}

// What a rank has of the dimension that a tensor is split along.
PartRange split_range(const TensorSpec& spec, int64_t n, const Config& c, const RankLayout& l) {
  switch (spec.module) {
    case Module::head:
    case Module::attention:
      return part_of(n, l.place(), l.tensor);
    case Module::mlp:
      return blocks_of(n, l.place(), l.tensor);
    case Module::expert:
      if (experts_by_columns(c, l)) return part_of(n, l.rank, l.ranks());
      break;
    case Module::other:
      break;
  }
  return {0, n};
}

// Why heads do not divide by `tensor`; empty where they do.
std::string obstacle(const Config& c, int tensor) {
  if (c.heads % tensor != 0)
    return fmt::format("num_attention_heads = {} is not divisible by it", c.heads);
  const int64_t columns = int64_t{c.heads} / tensor * c.value;
  if (tensor > 1 && c.fp8 && columns % kFp8Block != 0)
    return fmt::format(
        "the {} values of a rank's {} heads are no whole number of FP8 blocks of {} values",
        columns, c.heads / tensor, kFp8Block);
  return {};
}

}  // namespace

std::string RankLayout::describe() const {
  const std::string groups = data == 1 ? "" : fmt::format("{} groups of ", data);
  const std::string ranks = fmt::format("{}{} rank{}", groups, tensor, tensor == 1 ? "" : "s");
  return processes == 1 ? ranks : fmt::format("{} of {} processes", ranks, processes);
}

bool experts_by_columns(const Config& c, const RankLayout& l) {
  return l.data == 1 && c.moe_intermediate % (kFp8Block * l.ranks()) == 0;
}

TensorShare share_of(const TensorSpec& spec, const Config& c, const RankLayout& l) {
  TensorShare s{0, spec.shape[0], 0, spec.shape.size() > 1 ? spec.shape[1] : 1};
  if (l.ranks() == 1) return s;
  if (spec.module == Module::expert && !experts_by_columns(c, l)) {
    const PartRange own = part_of(c.experts, l.rank, l.ranks());
    if (spec.expert < own.begin || spec.expert >= own.end) return {};
    return s;
  }
  if (spec.cut == Split::rows) {
    const PartRange rows = split_range(spec, s.row_end, c, l);
    s.row_begin = rows.begin;
    s.row_end = rows.end;
  } else if (spec.cut == Split::cols) {
    const PartRange cols = split_range(spec, s.col_end, c, l);
    s.col_begin = cols.begin;
    s.col_end = cols.end;
  }
  return s;
}

Config config_of_rank(const Config& whole, const RankLayout& l) {
  Config c = whole;
  c.heads /= l.tensor;
  return c;
}

void check_layout(const Config& c, const RankLayout& l) {
  if (l.tensor < 1 || l.data < 1 || l.tensor > kMostRanks || l.data > kMostRanks)
    fail("{} ranks of {} groups: counts from 1 to {} are accepted", l.tensor, l.data, kMostRanks);
  FATHOM_CHECK(0 <= l.rank && l.rank < l.ranks(), "rank {} of {}", l.rank, l.ranks());
  if (l.ranks() % l.processes != 0)
    fail("{} ranks cannot be dealt out evenly to {} processes", l.ranks(), l.processes);
  if (l.ranks_here() % l.tensor != 0 && l.tensor % l.ranks_here() != 0)
    fail(
        "{} groups of {} ranks cannot be dealt out to {} processes: each would have {} ranks, no "
        "whole groups and no even part of one",
        l.data, l.tensor, l.processes, l.ranks_here());
  const std::string why = obstacle(c, l.tensor);
  if (why.empty()) return;
  std::vector<int> others;
  for (int n = 1; n <= c.heads; n *= 2)
    if (obstacle(c, n).empty()) others.push_back(n);
  fail("a tensor-parallel size of {} does not fit this model: {}; {} would", l.tensor, why,
       fmt::join(others, ", "));
}

}  // namespace fathom
