// The files of a checkpoint folder as one set of named tensors, whichever tool wrote them.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "io/safetensors.h"

namespace fathom {

// The ranks that a folder was converted for, by the names of its files; 0: Hugging Face's form, or
// nothing that can be read.
int converted_ranks(const std::string& dir);

// Either a Hugging Face folder (model.safetensors.index.json names the files, or all *.safetensors
// that are not hidden are taken), or a converted one (model{r}-mp{MP}.safetensors, DeepSeek's
// names, one file per rank).
class CheckpointFiles {
 public:
  // Throws Error if the folder is no checkpoint or a file is corrupt. What is wrong with the set of
  // files, e.g. an index that names a tensor which its file lacks, is collected in problems().
  static CheckpointFiles open(const std::string& dir);

  bool converted() const { return converted_; }
  int ranks() const { return static_cast<int>(by_rank_.size()); }  // 1 in a Hugging Face folder
  const std::vector<SafetensorsFile>& files() const { return files_; }
  const std::vector<std::string>& problems() const { return problems_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

  // Every tensor of a rank's files, by stored name.
  const std::unordered_map<std::string, const StoredTensor*>& tensors(int rank = 0) const {
    return by_rank_[static_cast<size_t>(rank)];
  }
  // Names below are Hugging Face names; null: not there.
  const StoredTensor* find(const std::string& name, int rank = 0) const;
  // The same for tensors of a dtype that this program does not compute with.
  const ForeignTensor* find_foreign(const std::string& name, int rank = 0) const;
  std::string stored_name(const std::string& name) const;
  int64_t bytes() const;  // of all files together

 private:
  void open_hugging_face(const std::string& dir, const std::vector<std::string>& names);
  void open_indexed(const std::string& dir, const std::string& index);
  void open_converted(const std::string& dir, int ranks);

  bool converted_ = false;
  std::vector<SafetensorsFile> files_;
  std::vector<std::unordered_map<std::string, const StoredTensor*>> by_rank_;  // stored names
  std::vector<std::unordered_map<std::string, const ForeignTensor*>> foreign_by_rank_;
  std::vector<std::string> problems_, warnings_;
};

}  // namespace fathom
