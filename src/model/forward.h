// The forward pass, written once over Ops (architecture.md, decision 1).
#pragma once

#include <span>

#include "comm/comm.h"
#include "kernels/ops.h"
#include "model/config.h"
#include "model/step_batch.h"
#include "model/weights.h"
#include "tensor/buffer.h"

namespace fathom {

struct ForwardOptions {
  Numerics numerics = Numerics::bf16;
  AttentionMode attention = AttentionMode::sparse;
  int step_tokens = 512;   // of one step
  int64_t context = 4096;  // positions of one sequence
  bool mtp = false;        // mtp() will be called
  int groups = 1;          // of ranks; each group computes its own sequences, all share the experts
  int group_ranks = 1;     // ranks of one group
};

// Returns the bytes of all activations that a step of options.step_tokens tokens holds at once.
int64_t activation_bytes(const Config& c, const ForwardOptions& options);

// Thread-compatible: one step at a time. Allocates in its constructor only.
class Forward {
 public:
  // All references must outlive this object. `comm` links the ranks that compute the same tokens.
  // `all` links the ranks of all groups; it is null if there is one group.
  Forward(const Config& config, const Weights& weights, Ops& ops, Comm& comm, Comm* all,
          const ForwardOptions& options);

  // With several groups all of them take their steps together. A step without tokens then computes
  // this rank's experts for the other groups.

  // Runs the batch through embedding, every layer and the final norm, appends to the cache `kv`
  // (one view per layer, and one more for the MTP block if it is used), and writes the logits of
  // batch.logit_rows(): logits [R, vocab] f32, in the ops' memory.
  void step(const StepBatch& batch, std::span<const KvView> kv, Tensor logits);

  // As step, but starts from the residual stream before layer `first` instead of the embedding.
  // hidden [T, D] f32 or bf16, in the host's memory. If `first` is config.layers, only norm and
  // head run.
  void step_from(int first, Tensor hidden, const StepBatch& batch, std::span<const KvView> kv,
                 Tensor logits);

  // Runs the MTP block (spec 2.4) on final states of the previous call, which was step() or mtp().
  // Batch token t combines the state of that call's token from[t] with next_ids[t], the token that
  // follows it. Without `from` it is the state of token t, and the batch must be the same as
  // before. Writes the logits of the token after next_ids[t]. If next_ids[t] has position p + 1,
  // the block's cache row for it lies in slot p of kv.back(): slot 0 would stay empty otherwise.
  //                                                                   logits [R, vocab] f32
  void mtp(const StepBatch& batch, std::span<const int32_t> next_ids, std::span<const KvView> kv,
           Tensor logits, std::span<const int32_t> from = {});
  // As mtp(), but token t combines the state of logit row t of the previous mtp(). It needs nothing
  // but the batch from the host, so it can be recorded in a CUDA graph.
  void mtp_again(const StepBatch& batch, std::span<const int32_t> next_ids,
                 std::span<const KvView> kv, Tensor logits);

 private:
  struct Activations;
  Activations activations(int tokens);
  void run_layers(int first, const Activations& a, const BatchView& batch,
                  std::span<const KvView> kv);
  void block(int layer, const LayerWeights& w, const float* next_norm, const Activations& a,
             const BatchView& batch, const KvView& kv, const RopeTable& rope);
  void attention(const AttentionWeights& w, const Activations& a, const BatchView& batch,
                 const KvView& kv, const RopeTable& rope);
  void add_update(const Activations& a, const float* gain);
  void ffn(const LayerWeights& w, const Activations& a);
  void ffn_of_all(const LayerWeights& w, const Activations& a, Tensor sum);
  void serve_others(int first);
  void head(Tensor wanted, Tensor hidden, std::span<const int32_t> rows, Tensor logits);
  void mtp_block(const Activations& a, const StepInputs& in, Tensor states,
                 std::span<const KvView> kv, Tensor logits);
  StepInputs begin_mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
                       std::span<const KvView> kv);
  Tensor rows_of(const Buffer& states, int64_t rows) const;
  RopeTable rope(int offset) const;

  const Config& config_;
  const Weights& weights_;
  Ops& ops_;
  Comm& comm_;
  ForwardOptions options_;
  bool sparse_;
  Comm* all_;
  Arena arena_;
  // The tokens of all groups, the results of this rank's experts for them, and the sums for the
  // tokens of its own group. They lie in one block of memory, laid out alike on every rank.
  struct AllTokens {
    ExpertRows rows;
    Tensor update;  // [groups * step_tokens, hidden]
    Tensor sum;     // [step_tokens, hidden]
  } all_tokens_;
  Arena all_memory_;
  // With MTP: the states after the final norm, [step_tokens, hidden]. They lie outside the arena:
  // its layout depends on the number of tokens, and the next call may have fewer.
  Buffer states_;
  Buffer said_;         // with MTP: the states of mtp()'s logit rows, [step_tokens, hidden]
  Buffer from_;         // with MTP: [step_tokens] i32, see mtp()
  Buffer rope_memory_;  // cos, then sin: [context + 1, rope / 2] each
};

}  // namespace fathom
