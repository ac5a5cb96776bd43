// The files of a checkpoint folder: which of them hold weights, and what its index says.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace fathom {

inline constexpr const char* kIndexFile = "model.safetensors.index.json";

// Whether `name` begins with a dot. Hidden files are not part of a checkpoint: macOS writes
// "._NAME" beside NAME to other file systems and into archives, and some programs write to
// ".NAME.tmp".
bool is_hidden(const std::string& name);

// Returns the names of the files of `dir` that may hold weights, sorted: *.safetensors that are
// neither hidden nor folders. Symbolic links are followed. Throws Error if `dir` is not a folder or
// cannot be read.
std::vector<std::string> safetensors_in(const std::string& dir);

// For messages about a folder that lacks shards: returns a clause that names the downloads that did
// not finish (NAME.part, .incomplete, .tmp, .aria2, .crdownload, .download); empty if there are
// none.
std::string unfinished_downloads(const std::string& dir);

// Returns the weight_map of an index file: tensor name -> name of a file in the same folder. Throws
// Error naming the index file if it is no index, or if it names a file outside of its folder.
std::map<std::string, std::string> read_weight_map(const std::string& path);

// Joins at most 20 of `names` for a message: a damaged folder may lack thousands.
std::string listed(const std::vector<std::string>& names);

}  // namespace fathom
