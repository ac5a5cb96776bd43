// Stage: what is needed to run single ops on synthetic inputs. It has the host's kernels
// (CheckContext::host_eval), one layer of cache, and a few tokens of one sequence at chosen
// positions.
#pragma once

#include <vector>

#include "selfcheck/checks.h"
#include "selfcheck/rows.h"

namespace fathom {

class Stage {
 public:
  // `context`: positions of the cache; `positions` of the tokens are all below it.
  Stage(const CheckContext& c, const Config& config, Numerics numerics, int64_t context,
        std::vector<int32_t> positions);

  Ops& ops() { return rig_.evaluator().ops(); }
  const KvView& kv() const { return pool_.layers()[0]; }
  const BatchView& batch() const { return batch_; }
  RopeTable rope() const;
  DType activations() const { return numerics_ == Numerics::exact ? DType::f32 : DType::bf16; }
  // The dtype of indexer queries, as index_topk takes them.
  DType index_dtype() const { return numerics_ == Numerics::fp8 ? DType::fp8_e4m3 : activations(); }

  // Random values in [-1, 1), rounded to `dtype`.
  OwnedTensor random(DType dtype, std::initializer_list<int64_t> shape);
  OwnedTensor zeros(DType dtype, std::initializer_list<int64_t> shape) const;
  void write_index_key(int64_t position, std::span<const float> values);

 private:
  Numerics numerics_;
  Rig rig_;
  KvPool pool_;
  TestValues values_{7};
  std::vector<int32_t> pages_, positions_, sequences_;
  std::vector<AttentionSpan> spans_;
  BatchView batch_;
};

// Reads or writes an element of an indexer query in any of its dtypes.
float index_value(Tensor q, int64_t row, int64_t i);
void set_index_value(Tensor q, int64_t row, int64_t i, float value);

// Reads a cached indexer key, dequantised.
std::vector<double> read_index_key(const KvView& kv, int64_t row);

// |a - b| / |b|
double relative_error(std::span<const double> a, std::span<const double> b);

}  // namespace fathom
