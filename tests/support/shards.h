// Reads and compares the files of a converted checkpoint.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "io/safetensors.h"
#include "support/temp_folder.h"

namespace fathom::test {

struct ShardTensor {
  DType dtype;
  std::vector<int64_t> shape;
  std::string bytes;
  bool operator==(const ShardTensor&) const = default;
};
using Shard = std::map<std::string, ShardTensor>;

inline Shard read_shard(const std::string& path) {
  Shard shard;
  SafetensorsFile file = SafetensorsFile::open(path);
  for (const StoredTensor& t : file.tensors())
    shard[t.name] = {t.dtype, t.shape, {reinterpret_cast<const char*>(t.data), t.bytes}};
  return shard;
}

inline std::set<std::string> file_names(const std::string& dir) {
  std::set<std::string> names;
  if (!std::filesystem::exists(dir)) return names;
  for (const auto& entry : std::filesystem::directory_iterator(dir))
    names.insert(entry.path().filename().string());
  return names;
}

// The same names and the same bytes under them; conversion.json holds times and may differ.
inline void expect_same_files(const std::string& a, const std::string& b) {
  EXPECT_EQ(file_names(a), file_names(b));
  for (const std::string& name : file_names(a)) {
    if (name == "conversion.json") continue;
    EXPECT_TRUE(read_file(a + "/" + name) == read_file(b + "/" + name)) << name << " differs";
  }
}

// Nothing that a loader, or a user, could take for a checkpoint.
inline bool looks_whole(const std::string& dir) {
  for (const std::string& name : file_names(dir))
    if (name.ends_with(".json") || name.ends_with(".safetensors")) return true;
  return false;
}

}  // namespace fathom::test
