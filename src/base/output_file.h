// The files that commands write because the user has named them. One rule for all: links are
// followed, so that a link stays one; only files are replaced or created.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

// Returns the file that `path` leads to through links; it need not exist. Throws Error where a
// folder, device, pipe or socket lies there: a file that is renamed over a device takes its place
// for every program.
std::string output_file(const std::string& path);

// Throws Error where write_output_file() would because of what lies at `path` or because its folder
// cannot be written to. For commands that work for long before they write.
void check_output_file(const std::string& path);

// Writes a whole file: one that was there before stays as it is if that fails. Throws Error.
void write_output_file(const std::string& path, std::string_view content);

}  // namespace fathom
