// The list of all tensors of a model. The loader, the converter, make-checkpoint, the size report
// and the sharding all walk this list.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "model/weights.h"

namespace fathom {

// How a tensor is divided over model-parallel ranks (names as in DeepSeek's converter).
enum class Split { none, rows, cols, expert };

// The kind of a tensor decides its usual dtype. In an FP8 checkpoint a `matrix` is FP8 with block
// scales; a `plain` matrix (embedding, head, router gate, weights_proj) is bf16.
enum class Kind { matrix, plain, norm, f32_vector };

// The module of a tensor. Each module is divided over ranks in its own way (model/rank_layout.h).
enum class Module { attention, mlp, expert, head, other };

struct TensorSpec {
  std::string name;  // Hugging Face
  std::vector<int64_t> shape;
  Kind kind;
  Split split;            // over the files of a converted checkpoint
  Module module;          // mlp: dense ones and the shared expert
  Split cut;              // none, rows or cols: the dimension that is divided over ranks
  int layer;              // -1 outside the layers
  int expert = -1;        // routed expert, or -1
  bool optional = false;  // may be absent (router bias)
};

// Where a tensor goes: exactly one of the two is set.
struct WeightSlot {
  QWeight* matrix = nullptr;
  const float** vector = nullptr;
};

// Calls f(const TensorSpec&, WeightSlot) for every tensor of `c`, in file order. Sizes the vectors
// inside `w` first.
template <class F>
void for_each_tensor(const Config& c, Weights& w, F&& f);

// The list alone.
std::vector<TensorSpec> tensor_list(const Config& c);

// DeepSeek's converter name of a Hugging Face name, e.g. model.layers.3.self_attn.q_a_proj.weight
// -> layers.3.attn.wq_a.weight; weight_scale_inv -> scale.
std::string converted_name(const std::string& hf_name);

}  // namespace fathom

#include "model/tensor_list_inl.h"
