// A checkpoint in memory: its mapped files, the tensors that had to be copied, and the weights as
// views of both.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/checkpoint_files.h"
#include "model/config.h"
#include "model/rank_layout.h"
#include "model/tensor_list.h"
#include "model/tensor_parts.h"
#include "model/weights.h"
#include "tensor/buffer.h"

namespace fathom {

struct CheckpointOptions {
  std::string config_file;  // instead of DIR/config.json
  bool with_mtp = true;     // false: leave the MTP layer out even if it is there
  RankLayout layout = {};   // weights are loaded for the ranks of this process
};

// The problems of a checkpoint, by tensor name, found without loading it.
struct CheckpointReport {
  Config config;  // mtp_layers is 0 when their tensors are missing or not wanted
  std::vector<std::string> problems, warnings;
};

// Checks in `files` every tensor that `config` asks for: presence, shape, dtype, scales. If the
// files have no MTP layer, the report's config has none.
CheckpointReport check_checkpoint(const CheckpointFiles& files, const Config& config,
                                  const CheckpointOptions& options = {});

// Returns the bytes that loading takes in addition to the mapped files (see Checkpoint). Valid only
// for a checkpoint without problems.
int64_t bytes_to_own(const CheckpointFiles& files, const Config& c, const RankLayout& layout = {});

// A weight (or a rank's part of one) that lies in one file is used where it is mapped. Copied into
// owned memory are norms and other vectors (as float32), weights joined from several shards, and
// weights that are not aligned. So each rank reads only its own ranges of the files. The files may
// be converted for the same number of ranks, for another number, or not at all.
class Checkpoint {
 public:
  // Loads a Hugging Face folder or a converted one. Throws Error that lists the problems.
  static std::unique_ptr<Checkpoint> load(const std::string& dir,
                                          const CheckpointOptions& options = {});

  const Config& config() const { return config_; }
  // Returns the weights of the i-th rank of this process.
  const Weights& weights(int i = 0) const { return weights_[static_cast<size_t>(i)]; }
  RankWeights rank_weights() const;
  const RankLayout& layout() const { return layout_; }
  const std::string& path() const { return path_; }
  const std::vector<std::string>& warnings() const { return warnings_; }
  int64_t owned_bytes() const { return owned_bytes_; }
  // Bytes of the files that are in memory once all that this process uses has been read.
  int64_t mapped_bytes() const;

 private:
  Checkpoint(std::string path, CheckpointFiles files)
      : path_(std::move(path)), files_(std::move(files)) {}

  void fill(const TensorSpec& spec, const TensorShare& share, WeightSlot slot);
  const float* vector_of(const TensorSpec& spec);
  QWeight matrix_of(const TensorSpec& spec, const TensorShare& share);
  QWeight in_place(const TensorPart& part);
  QWeight joined(const TensorSpec& spec, const TensorShare& share,
                 const std::vector<TensorPart>& parts);
  const float* own(std::vector<float> values);
  std::byte* own_bytes(size_t bytes);

  std::string path_;
  CheckpointFiles files_;
  Config config_;
  RankLayout layout_;
  std::vector<Weights> weights_;  // of the ranks of this process
  // Weights that all ranks have whole and that had to be copied, by name.
  std::map<std::string, QWeight> shared_;
  std::map<std::string, const float*> vectors_;
  std::vector<std::string> warnings_;
  std::vector<std::vector<float>> floats_;
  std::vector<Buffer> buffers_;
  int64_t owned_bytes_ = 0;
};

}  // namespace fathom
