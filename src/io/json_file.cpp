#include "io/json_file.h"

#include "base/error.h"
#include "io/mapped_file.h"

namespace fathom {

using nlohmann::json;

constexpr int kMaxDepth = 32;  // documents are destroyed and printed recursively

json parse_json(const std::string& text, const std::string& origin, size_t max_bytes) {
  if (text.size() > max_bytes)
    fail("{}: {} bytes, expected at most {}", origin, text.size(), max_bytes);
  auto limit = [&](int depth, json::parse_event_t, json&) {
    if (depth > kMaxDepth) fail("{}: nested deeper than {} levels", origin, kMaxDepth);
    return true;
  };
  try {
    return json::parse(text, limit);
  } catch (const json::parse_error& e) {
    fail("{}: not JSON: wrong at byte {}", origin, e.byte);
  } catch (const json::exception&) {
    fail("{}: not JSON: a number out of range", origin);
  }
}

json read_json_file(const std::string& path, size_t max_bytes) {
  MappedFile map(path);
  if (map.size() > max_bytes)  // before it is copied
    fail("{}: {} bytes, expected at most {}", path, map.size(), max_bytes);
  return parse_json({reinterpret_cast<const char*>(map.data()), map.size()}, path, max_bytes);
}

}  // namespace fathom
