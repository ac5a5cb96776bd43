// A Hugging Face checkpoint folder as the converter sees it: the place of each tensor's bytes. No
// file stays mapped; the converter reads the data with pread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "tensor/dtype.h"

namespace fathom {

struct SourceFile {
  std::string path, name;
  uint64_t bytes = 0;
  int64_t mtime_ns = 0;
};

struct SourceTensor {
  DType dtype = DType::u8;
  std::vector<int64_t> shape;
  size_t file = 0;
  uint64_t offset = 0, bytes = 0;  // in the file
};

struct Source {
  std::string dir;
  std::vector<SourceFile> files;
  std::map<std::string, SourceTensor> tensors;
  std::map<std::string, ForeignTensor> foreign;  // of dtypes that weights do not have
};

// Finds the tensors of a folder by the rules of CheckpointFiles, as loading a model does. Throws
// Error if the folder is no checkpoint, is damaged, or is already converted.
Source open_source(const std::string& dir);

SourceFile stat_source(const std::string& dir, const std::string& name);

}  // namespace fathom
