// The numerics and attention that a user can choose; docs/numerics.md lists the rounding points.
#pragma once

#include <cstdint>
#include <string_view>

namespace fathom {

// exact  float32 activations, weights dequantised: what the others are compared with
// bf16   operator results and GEMM inputs in bf16, float32 accumulation, weights dequantised
// fp8    the reference's own quantisation points: FP8 activations in front of FP8 weights, FP8
//        indexer after the Hadamard rotation
enum class Numerics : uint8_t { exact, bf16, fp8 };

constexpr std::string_view name_of(Numerics n) {
  return n == Numerics::exact ? "exact" : n == Numerics::bf16 ? "bf16" : "fp8";
}

// dense is the comparison model (every earlier token), never the default of a V3.2 checkpoint.
enum class AttentionMode : uint8_t { sparse, dense };

constexpr std::string_view name_of(AttentionMode m) {
  return m == AttentionMode::sparse ? "sparse" : "dense";
}

// Two evaluations of the same attention (spec 2.1): expanded keys and values per head (MHA), or the
// query absorbed into latent space (MQA). model/attention_form.h says which one a token uses;
// chunking does not change it.
enum class AttentionForm : uint8_t { expanded, absorbed };

}  // namespace fathom
