// What lies in a checkpoint folder: which of its files hold weights, and what its index says.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace fathom {

inline constexpr const char* kIndexFile = "model.safetensors.index.json";

// Hidden files are none of a checkpoint's: file systems and archives of a Macintosh put "._NAME"
// beside NAME, and some programs keep ".NAME.tmp" while they write.
bool is_hidden(const std::string& name);

// Names of the files of `dir` that may hold weights: *.safetensors that are not hidden and no
// folders, in order. Links lead to what they point at. Throws Error for what is no folder, or
// cannot be read.
std::vector<std::string> safetensors_in(const std::string& dir);

// Of a folder that lacks shards: names of downloads that did not finish (NAME.part, .incomplete,
// .tmp, .aria2, .crdownload, .download), as a clause for a message; empty where there are none.
std::string unfinished_downloads(const std::string& dir);

// weight_map of an index file: tensor name -> name of a file in the same folder. Throws Error
// naming the file for what is no index, or would lead out of its folder.
std::map<std::string, std::string> read_weight_map(const std::string& path);

// At most 20 of `names`: a damaged folder may lack thousands.
std::string listed(const std::vector<std::string>& names);

}  // namespace fathom
