#include "convert/source.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "base/error.h"
#include "io/safetensors.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
constexpr const char* kIndex = "model.safetensors.index.json";

// Tensor name -> file name, as the index says.
std::map<std::string, std::string> read_index(const fs::path& path) {
  std::ifstream stream(path);
  nlohmann::json index = nlohmann::json::parse(stream, nullptr, false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail("{}: expected a JSON object with an object weight_map", path.string());
  std::map<std::string, std::string> map;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) fail("{}: weight_map: {} is not a string", path.string(), name);
    std::string text = file.get<std::string>();
    // A name with a folder in it could lead out of the checkpoint.
    if (text.empty() || fs::path(text).filename() != text)
      fail("{}: weight_map: {} names {}, expected a file of the folder", path.string(), name, text);
    map[name] = text;
  }
  return map;
}

std::vector<std::string> list_safetensors(const std::string& dir) {
  static const std::regex kConverted(R"(model\d+-mp\d+\.safetensors)");
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) {
    std::string name = entry.path().filename().string();
    if (std::regex_match(name, kConverted))
      fail("{} is a converted folder already (it holds {}); expected a Hugging Face folder", dir,
           name);
    if (entry.path().extension() == ".safetensors") names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
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
  std::error_code ignored;
  if (!fs::is_directory(dir, ignored)) fail("no such folder: {}", dir);
  std::vector<std::string> names = list_safetensors(dir);
  std::map<std::string, std::string> index;
  if (fs::exists(fs::path(dir) / kIndex)) {
    index = read_index(fs::path(dir) / kIndex);
    std::set<std::string> used;
    for (const auto& [tensor, file] : index) used.insert(file);
    for (const std::string& file : used)
      if (!std::binary_search(names.begin(), names.end(), file))
        fail("{}: {} names {}, which is not there", dir, kIndex, file);
    names.clear();
    for (const std::string& file : used) names.push_back(file);
  }
  if (names.empty()) fail("{} is not a checkpoint: it holds no *.safetensors", dir);

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
  }
  for (const auto& [tensor, file] : index) {
    auto at = source.tensors.find(tensor);
    if (at == source.tensors.end() || source.files[at->second.file].name != file)
      fail("{}: {} says {} has {}, which it has not", dir, kIndex, file, tensor);
  }
  return source;
}

}  // namespace fathom
