// Random checkpoints with the names, shapes and formats of real ones: for tests, and for benchmarks
// of models whose real weights are not available.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "tensor/dtype.h"

namespace fathom {

struct RandomOptions {
  std::string config;  // text of a Hugging Face config.json
  std::string origin;  // where that text is from, for messages
  std::string out;
  uint64_t seed = 0;
  // Dtype of the large matrices: fp8_e4m3 (with block scales), bf16 or f32; nothing: as in
  // `config`.
  std::optional<DType> dtype;
  bool dry_run = false;
  int threads = 0;                      // 0: all processors
  uint64_t file_bytes = 4'300'000'000;  // the real checkpoint's files are about this large
};

struct RandomResult {
  uint64_t bytes = 0;
  double seconds = 0;
};

// Values are drawn so that activations keep their size from layer to layer: matrices N(0, 1/in),
// halved where a branch joins the residual stream, gains 1 + N(0, 0.01). Every byte depends on the
// seed, the tensor's name and the place in it alone. Throws Error before anything is written when
// the folder holds a checkpoint or the disk is too small; config.json is written last.
RandomResult make_random_checkpoint(const RandomOptions& options,
                                    const std::function<void(const std::string&)>& say);

}  // namespace fathom
