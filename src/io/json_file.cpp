#include "io/json_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/file_kind.h"
#include "base/json_fault.h"

namespace fathom {

using nlohmann::json;

constexpr int kMaxDepth = 32;  // documents are destroyed and printed recursively

json parse_json(const std::string& bytes, const std::string& origin, size_t max_bytes) {
  const std::string_view text = without_byte_order_mark(bytes, origin);
  if (text.size() > max_bytes)
    fail("{}: {} bytes, expected at most {}", origin, text.size(), max_bytes);
  auto limit = [&](int depth, json::parse_event_t, json&) {
    if (depth > kMaxDepth) fail("{}: nested deeper than {} levels", origin, kMaxDepth);
    return true;
  };
  try {
    return json::parse(text, limit);
  } catch (const json::exception&) {
    fail_json(text, origin);
  }
}

json read_json_file(const std::string& path, size_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path, max_bytes);
}

std::string read_file(const std::string& path, size_t max_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("cannot open {}: {}", path, std::strerror(errno));
  std::string content;
  int error = 0;
  for (char block[1 << 16]; content.size() <= max_bytes;) {
    const ssize_t n = ::read(fd, block, sizeof(block));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) error = errno;
    if (n <= 0) break;
    content.append(block, static_cast<size_t>(n));
  }
  ::close(fd);
  if (error != 0) fail("cannot read {}: {}", path, std::strerror(error));
  if (content.size() > max_bytes)
    fail("{}: more than the {} bytes expected at most", path, max_bytes);
  return content;
}

}  // namespace fathom
