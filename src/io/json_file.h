// JSON files of a checkpoint folder, read with limits: these files come from anywhere.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace fathom {

// Throws Error naming `origin`, and what it is where that is plain (base/file_kind.h), when the
// text is longer than `max_bytes`, nested deeper than 32 levels or not JSON.
nlohmann::json parse_json(const std::string& bytes, const std::string& origin, size_t max_bytes);

// All of a file, a pipe (`--config <(...)`) or a device. Throws Error naming the file where it
// cannot be read or has more than `max_bytes`.
std::string read_file(const std::string& path, size_t max_bytes);

nlohmann::json read_json_file(const std::string& path, size_t max_bytes);

}  // namespace fathom
