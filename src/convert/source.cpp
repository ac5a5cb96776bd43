#include "convert/source.h"

#include <fmt/ranges.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "model/checkpoint_files.h"

namespace fathom {

namespace fs = std::filesystem;

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
  const CheckpointFiles set = CheckpointFiles::open(dir);
  if (set.converted())
    fail("{} is a converted folder already (it holds {}); expected a Hugging Face folder", dir,
         fs::path(set.files()[0].path()).filename().string());
  if (!set.problems().empty()) fail("{}: {}", dir, fmt::join(set.problems(), "; "));

  Source source;
  source.dir = dir;
  std::map<std::string, size_t> number;  // of a file, by path
  for (const SafetensorsFile& file : set.files()) {
    number[file.path()] = source.files.size();
    source.files.push_back(stat_source(dir, fs::path(file.path()).filename()));
    for (const ForeignTensor& t : file.foreign()) source.foreign.emplace(t.name, t);
  }
  for (const auto& [name, t] : set.tensors()) {
    const size_t file = number.at(t->file);
    source.tensors[name] = {t->dtype, t->shape, file, set.files()[file].offset_of(*t), t->bytes};
  }
  return source;
}

}  // namespace fathom
