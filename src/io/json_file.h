// JSON files of a checkpoint folder, read with limits: these files come from anywhere.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace fathom {

// Throws Error naming `origin` when the text is longer than `max_bytes`, nested deeper than 32
// levels or not JSON. If the bytes are a known kind of other file, the error says so
// (base/file_kind.h).
nlohmann::json parse_json(const std::string& bytes, const std::string& origin, size_t max_bytes);

// Reads all of a file, a pipe (`--config <(...)`) or a device. Throws Error naming the file when it
// cannot be read or has more than `max_bytes`.
std::string read_file(const std::string& path, size_t max_bytes);

nlohmann::json read_json_file(const std::string& path, size_t max_bytes);

}  // namespace fathom
