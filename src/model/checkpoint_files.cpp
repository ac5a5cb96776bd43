#include "model/checkpoint_files.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/error.h"
#include "io/checkpoint_folder.h"
#include "model/tensor_list.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

std::string join(const std::string& dir, const std::string& name) { return fs::path(dir) / name; }

// MP of model{r}-mp{MP}.safetensors, 0 for other names.
int model_parallel_of(const std::string& name) {
  int rank = 0, ranks = 0, used = 0;
  bool matches =
      std::sscanf(name.c_str(), "model%5d-mp%5d.safetensors%n", &rank, &ranks, &used) == 2 &&
      used == static_cast<int>(name.size());
  return matches && ranks > 0 && rank >= 0 && rank < ranks ? ranks : 0;
}

std::string converted_file(int rank, int ranks) {
  return fmt::format("model{}-mp{}.safetensors", rank, ranks);
}

// The conversions that lie in a folder: MP -> files of it.
using Conversions = std::map<int, int>;
Conversions conversions_of(const std::vector<std::string>& names) {
  Conversions found;
  for (const std::string& name : names)
    if (int mp = model_parallel_of(name)) ++found[mp];
  return found;
}
// Several may share a folder: the first complete one has the fewest shards to join.
int conversion_to_read(const Conversions& found) {
  auto complete =
      std::find_if(found.begin(), found.end(), [](const auto& c) { return c.first == c.second; });
  return complete == found.end() ? found.begin()->first : complete->first;
}

}  // namespace

int converted_ranks(const std::string& dir) {
  std::error_code ignored;
  if (!fs::is_directory(dir, ignored) || fs::exists(join(dir, kIndexFile), ignored)) return 0;
  const Conversions found = conversions_of(safetensors_in(dir));
  return found.empty() ? 0 : conversion_to_read(found);
}

CheckpointFiles CheckpointFiles::open(const std::string& dir) {
  std::vector<std::string> names = safetensors_in(dir);
  CheckpointFiles set;
  std::error_code ignored;
  std::string index = join(dir, kIndexFile);
  if (fs::exists(index, ignored)) {
    set.open_indexed(dir, index);
    return set;
  }
  if (names.empty())
    fail("not a checkpoint: no *.safetensors in {}{}", dir, unfinished_downloads(dir));
  const Conversions conversions = conversions_of(names);
  if (conversions.empty()) {
    set.open_hugging_face(dir, names);
    return set;
  }
  const int mp = conversion_to_read(conversions);
  if (conversions.size() > 1)
    set.warnings_.push_back(
        fmt::format("{} holds several conversions: the one with mp{} is read", dir, mp));
  set.open_converted(dir, mp);
  return set;
}

void CheckpointFiles::open_hugging_face(const std::string& dir,
                                        const std::vector<std::string>& names) {
  for (const std::string& name : names) files_.push_back(SafetensorsFile::open(join(dir, name)));
  auto& tensors = by_rank_.emplace_back();
  auto& foreign = foreign_by_rank_.emplace_back();
  for (const SafetensorsFile& file : files_) {
    for (const StoredTensor& t : file.tensors())
      if (auto [it, added] = tensors.emplace(t.name, &t); !added)
        problems_.push_back(fmt::format("twice: {} is in {} and in {}", printable(t.name),
                                        it->second->file, t.file));
    for (const ForeignTensor& t : file.foreign()) foreign.emplace(t.name, &t);
  }
}

void CheckpointFiles::open_indexed(const std::string& dir, const std::string& index) {
  const std::map<std::string, std::string> map = read_weight_map(index);
  std::set<std::string> names;
  for (const auto& [tensor, file] : map) names.insert(file);
  std::vector<std::string> absent;
  std::error_code ignored;
  for (const std::string& name : names)
    if (!fs::exists(join(dir, name), ignored)) absent.push_back(name);
  if (!absent.empty())
    fail("{}: files that {} names are missing: {}{}", dir, kIndexFile, listed(absent),
         unfinished_downloads(dir));

  std::map<std::string, const SafetensorsFile*> by_name;
  for (const std::string& name : names) files_.push_back(SafetensorsFile::open(join(dir, name)));
  size_t i = 0;
  for (const std::string& name : names) by_name[name] = &files_[i++];
  auto& tensors = by_rank_.emplace_back();
  auto& foreign = foreign_by_rank_.emplace_back();
  for (const SafetensorsFile& f : files_)
    for (const ForeignTensor& t : f.foreign()) foreign.emplace(t.name, &t);
  for (const auto& [tensor, name] : map) {
    if (const StoredTensor* t = by_name[name]->find(tensor))
      tensors[tensor] = t;
    else if (!foreign.count(tensor))
      problems_.push_back(fmt::format("not in its file: {}, which {} puts into {}",
                                      printable(tensor), kIndexFile, printable(name)));
  }
  // A tensor that the index does not list is found all the same.
  for (const SafetensorsFile& f : files_)
    for (const StoredTensor& t : f.tensors())
      if (!map.count(t.name)) tensors.emplace(t.name, &t);
}

void CheckpointFiles::open_converted(const std::string& dir, int ranks) {
  converted_ = true;
  std::vector<std::string> absent;
  std::error_code ignored;
  for (int r = 0; r < ranks; ++r)
    if (std::string name = converted_file(r, ranks); !fs::exists(join(dir, name), ignored))
      absent.push_back(name);
  if (!absent.empty())
    fail("{}: shards of a conversion to {} ranks are missing: {}{}", dir, ranks, listed(absent),
         unfinished_downloads(dir));
  for (int r = 0; r < ranks; ++r)
    files_.push_back(SafetensorsFile::open(join(dir, converted_file(r, ranks))));
  by_rank_.resize(ranks);
  foreign_by_rank_.resize(ranks);
  for (int r = 0; r < ranks; ++r) {
    for (const StoredTensor& t : files_[r].tensors()) by_rank_[r].emplace(t.name, &t);
    for (const ForeignTensor& t : files_[r].foreign()) foreign_by_rank_[r].emplace(t.name, &t);
  }
}

std::string CheckpointFiles::stored_name(const std::string& name) const {
  return converted_ ? converted_name(name) : name;
}

const StoredTensor* CheckpointFiles::find(const std::string& name, int rank) const {
  auto it = by_rank_[rank].find(stored_name(name));
  return it == by_rank_[rank].end() ? nullptr : it->second;
}

const ForeignTensor* CheckpointFiles::find_foreign(const std::string& name, int rank) const {
  auto it = foreign_by_rank_[rank].find(stored_name(name));
  return it == foreign_by_rank_[rank].end() ? nullptr : it->second;
}

int64_t CheckpointFiles::bytes() const {
  int64_t sum = 0;
  for (const SafetensorsFile& file : files_) sum += static_cast<int64_t>(file.bytes());
  return sum;
}

}  // namespace fathom
