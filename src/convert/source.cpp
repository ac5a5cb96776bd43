#include "convert/source.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <regex>
#include <set>

#include "base/error.h"
#include "io/checkpoint_folder.h"
#include "io/safetensors.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
// Throws Error for a folder that DeepSeek's converter or this one made.
void refuse_converted(const std::string& dir, const std::vector<std::string>& names) {
  static const std::regex kConverted(R"(model\d+-mp\d+\.safetensors)");
  for (const std::string& name : names)
    if (std::regex_match(name, kConverted))
      fail("{} is a converted folder already (it holds {}); expected a Hugging Face folder", dir,
           name);
}

}  // namespace

SourceFile stat_source(const std::string& dir, const std::string& name) {
  SourceFile f;
  f.name = name;
  f.path = (fs::path(dir) / name).string();
  struct stat info {};
  if (stat(f.path.c_str(), &info) != 0) fail("cannot read {}: {}", f.path, std::strerror(errno));
  f.bytes = static_cast<uint64_t>(info.st_size);
  f.mtime_ns = info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec;
  return f;
}

Source open_source(const std::string& dir) {
  std::vector<std::string> names = safetensors_in(dir);
  refuse_converted(dir, names);
  std::map<std::string, std::string> index;
  std::error_code ignored;
  if (const fs::path path = fs::path(dir) / kIndexFile; fs::exists(path, ignored)) {
    index = read_weight_map(path);
    std::set<std::string> used;
    for (const auto& [tensor, file] : index) used.insert(file);
    for (const std::string& file : used)
      if (!std::binary_search(names.begin(), names.end(), file))
        fail("{}: {} names {}, which is not there{}", dir, kIndexFile, file,
             unfinished_downloads(dir));
    names.assign(used.begin(), used.end());
  }
  if (names.empty())
    fail("{} is not a checkpoint: it holds no *.safetensors{}", dir, unfinished_downloads(dir));

  Source source;
  source.dir = dir;
  for (const std::string& name : names) {
    source.files.push_back(stat_source(dir, name));
    SafetensorsFile file = SafetensorsFile::open(source.files.back().path);
    for (const StoredTensor& t : file.tensors()) {
      SourceTensor entry{t.dtype, t.shape, source.files.size() - 1, file.offset_of(t), t.bytes};
      auto [at, added] = source.tensors.emplace(t.name, entry);
      if (!added)
        fail("tensor {} is in both {} and {}", t.name, source.files[at->second.file].path, t.file);
    }
    for (const ForeignTensor& t : file.foreign()) source.foreign.emplace(t.name, t);
  }
  for (const auto& [tensor, file] : index) {
    auto at = source.tensors.find(tensor);
    const bool there = at != source.tensors.end() && source.files[at->second.file].name == file;
    if (!there && !source.foreign.count(tensor))
      fail("{}: {} says {} has {}, which it has not", dir, kIndexFile, file, tensor);
  }
  return source;
}

}  // namespace fathom
