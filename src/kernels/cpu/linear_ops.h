// Linear algebra of the fast CPU implementations: everything of Ops that is a matrix product, a
// norm or a copy. AttentionOps derives from it and adds attention.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/reference_ops.h"
#include "tensor/buffer.h"

namespace fathom {

// The bits of a row's result do not depend on the number of threads or on the other rows (gemm.h
// says how). Workspace is planned from the Workload; what does not fit is computed by the reference
// loops.
class LinearOps : public ReferenceOps {
 public:
  LinearOps(Numerics numerics, const Workload& workload, ThreadPool& pool,
            const GemmKernels& kernels);

  void embed(Tensor hidden, const int32_t* ids, const QWeight& table) override;
  void rms_norm(Tensor out, Tensor x, const float* gain, float eps) override;
  void add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                    float eps) override;
  void project(std::span<const Projection> projections, Tensor x) override;
  void route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
             const RouterShape& shape) override;
  void mlp(Tensor out, Tensor x, const MlpWeights& w) override;
  void moe(Tensor out, Tensor x, Tensor ids, Tensor weights, std::span<const MlpWeights> experts,
           const MlpWeights* shared) override;
  std::string describe() const override;

 protected:
  // out = x W^T for float32 rows, on the calling thread inside of a parallel loop. Attention uses
  // it for its rows. FP8 weights are dequantised, activations are not quantised.
  void multiply_rows(const QWeight& w, Inputs x, Outputs out, int thread);

  const GemmKernels& kernels_;

 private:
  // Rows of one MLP within the entries of a step.
  struct Group {
    const MlpWeights* w = nullptr;
    int64_t begin = 0, rows = 0;
  };
  // Prepared activations. By row: a pointer to the values (in `values`, or to the original row),
  // and in the coded form one to its block scales.
  struct Prepared {
    Buffer values, scales;
    std::vector<const uint8_t*> x;
    std::vector<const float*> scale;
    Inputs inputs(Form form, int64_t begin, int64_t rows) const {
      bool coded = form.quant == Form::Quant::coded;
      return {x.data() + begin, coded ? scale.data() + begin : nullptr, rows};
    }
  };

  std::optional<Form> form_for(std::span<const QWeight* const> weights) const {
    return common_form(weights, numerics_, workload_.ue8m0, kernels_.bf16.tile != nullptr);
  }
  static bool in_place(Form form, Tensor x);
  static bool has_words(const QWeight& w) { return w.words != nullptr && w.is_fp8(); }
  bool fits(int64_t rows, int64_t columns) const;
  // Rows of x become rows [first, ...) of `place`, `stride` elements apart where they are copied.
  void prepare(Prepared& place, Form form, Tensor x, int64_t first, int64_t stride);
  // Returns `in` as product_.run needs it: interleaved in the thread's memory if weights are
  // streamed, and lifted if `words`: some of the weights have them. `key` identifies the input, so
  // that it is interleaved only once until interleaved_key_ is reset; -1: no key.
  Inputs interleaved(Form form, Inputs in, int64_t columns, int thread, bool words,
                     int64_t key = -1);
  // Rows [begin, begin + rows) that are multiplied with the same weights.
  struct Run {
    int64_t begin, rows, columns;
  };
  // Returns `in` with the rows of runs_ in blocks, if the kernels take blocks. Uses all threads.
  Inputs in_blocks(Form form, Inputs in);
  // Fills runs_ with the groups' rows, as inputs of one of their weights.
  void plan_runs(QWeight MlpWeights::*which);
  // Distributes strips over the threads: evenly when there is little work, else as threads become
  // free. `even`: all strips take the same time.
  void over_strips(Form form, int64_t strips, int64_t bytes, int64_t rows, bool even,
                   LoopBody body);
  bool project_alike(std::span<const Projection> projections, Tensor x, size_t first);

  bool plan_groups(Tensor ids, Tensor weights, std::span<const MlpWeights> experts,
                   const MlpWeights* shared, int64_t hidden);
  // down(silu(gate x) * up x) of every group; entries of x in, rows of `out` out.
  void run_groups(Form form, Form down_form, Inputs x, Tensor out);
  void gate_up(Form form, Inputs x, Tensor act);
  void down(Form form, Tensor act, Tensor out);
  // Whether every group has as many rows as the others.
  bool groups_are_even() const {
    return std::all_of(groups_.begin(), groups_.end(),
                       [&](const Group& g) { return g.rows == groups_.front().rows; });
  }
  int64_t end_of_groups() const { return groups_.back().begin + groups_.back().rows; }
  void combine(Tensor out, Tensor parts, int64_t per_token, int64_t shared);
  // Calls body(group, begin, end) for the strips [begin, end) of all groups laid end to end.
  template <class Body>
  void in_groups(int64_t begin, int64_t end, QWeight MlpWeights::*which, Body body) const;

  const Product product_;
  int64_t max_entries_;   // rows of all experts of a step, and of the shared one
  int64_t max_prepared_;  // elements of prepared_
  Prepared prepared_, plain_;
  Buffer act_, parts_, logits_;
  std::vector<ProductScratch> scratch_;   // per thread
  int64_t interleaved_bytes_;             // of one thread in interleaved_
  Buffer interleaved_;                    // behind a thread's rows is room for lifted ones
  std::vector<int64_t> interleaved_key_;  // per thread: the key of the rows in its part, or -1
  std::vector<uint8_t> lifted_;           // per thread: whether those rows could be lifted
  Buffer blocks_;                         // activations in blocks
  std::vector<Run> runs_;

  // The step's tokens sorted by expert, and each token's entries by ascending expert.
  std::vector<Group> groups_;
  std::vector<const QWeight*> weights_;
  std::vector<int64_t> expert_begin_;
  std::vector<int32_t> entry_token_, entry_slot_, token_entry_, token_fill_;
  std::vector<float> token_weight_;
  std::vector<const uint8_t*> entry_x_;
  std::vector<const float*> entry_scale_;
  std::vector<const void*> part_;  // per thread, experts_per_token each
};

}  // namespace fathom
