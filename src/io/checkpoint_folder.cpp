#include "io/checkpoint_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "io/json_file.h"
#include "io/safetensors.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxIndexBytes = 256 << 20;  // the real model's has 9 MB

// Names of the entries of `dir` that are not hidden, in order.
std::vector<std::string> entries_of(const std::string& dir) {
  std::error_code error;
  if (!fs::exists(dir, error)) fail("no such folder: {}", dir);
  if (!fs::is_directory(dir, error)) fail("not a folder: {}", dir);
  std::vector<std::string> names;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error))
    if (std::string name = it->path().filename(); !is_hidden(name))
      names.push_back(std::move(name));
  if (error) fail("cannot read the folder {}: {}", dir, error.message());
  std::sort(names.begin(), names.end());
  return names;
}

nlohmann::json read_index(const std::string& path) {
  try {
    return read_json_file(path, kMaxIndexBytes);
  } catch (const Error& e) {
    fail("{}; expected an object with an object weight_map", e.what());
  }
}

}  // namespace

bool is_hidden(const std::string& name) { return name.starts_with('.'); }

std::vector<std::string> safetensors_in(const std::string& dir) {
  std::vector<std::string> names = entries_of(dir);
  std::erase_if(names, [&](const std::string& name) {
    std::error_code ignored;
    return !name.ends_with(".safetensors") || fs::is_directory(fs::path(dir) / name, ignored);
  });
  return names;
}

std::string unfinished_downloads(const std::string& dir) {
  std::vector<std::string> names = entries_of(dir);
  std::erase_if(names, [](const std::string& name) {
    constexpr std::string_view kEndings[] = {".part",  ".incomplete", ".tmp",
                                             ".aria2", ".crdownload", ".download"};
    return name.find(".safetensors") == name.npos ||
           std::none_of(std::begin(kEndings), std::end(kEndings),
                        [&](std::string_view ending) { return name.ends_with(ending); });
  });
  if (names.empty()) return {};
  return fmt::format("; downloads that did not finish: {}", listed(names));
}

std::map<std::string, std::string> read_weight_map(const std::string& path) {
  const nlohmann::json json = read_index(path);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    fail("{}: expected an object with an object weight_map", path);
  std::map<std::string, std::string> map;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    if (!file.is_string())
      fail("{}: weight_map: expected a file name for {}", path, printable(tensor));
    const std::string& name = file.get_ref<const std::string&>();
    // An index must not name files outside its folder.
    if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
        name.find('\0') != name.npos)
      fail(
          "{}: weight_map: {} is not a file of this folder: expected a file of the folder that the "
          "index lies in",
          path, printable(name));
    map[tensor] = name;
  }
  if (map.empty()) fail("{}: weight_map is empty", path);
  return map;
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(names.size(), 20); ++i)
    text += (i ? " " : "") + printable(names[i]);
  if (names.size() > 20) text += fmt::format(" and {} more", names.size() - 20);
  return text;
}

}  // namespace fathom
