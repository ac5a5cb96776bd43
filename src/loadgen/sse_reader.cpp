#include "loadgen/sse_reader.h"

#include <utility>

namespace fathom::loadgen {

std::vector<std::string> SseReader::feed(std::string_view bytes) {
  std::vector<std::string> events;
  for (const char c : bytes) {
    const bool joined = after_cr_ && c == '\n';
    after_cr_ = c == '\r';
    if (joined) continue;
    if (c == '\n' || c == '\r')
      end_line(events);
    else
      line_ += c;
  }
  return events;
}

void SseReader::end_line(std::vector<std::string>& events) {
  const std::string line = std::exchange(line_, {});
  if (line.empty()) {
    if (has_data_) events.push_back(std::exchange(data_, {}));
    has_data_ = false;
    return;
  }
  std::string_view rest = line;
  if (!rest.starts_with("data")) return;
  rest.remove_prefix(4);
  if (!rest.empty() && rest[0] != ':') return;  // another field, "database"
  if (!rest.empty()) rest.remove_prefix(1);
  if (rest.starts_with(' ')) rest.remove_prefix(1);
  if (has_data_) data_ += '\n';
  data_ += rest;
  has_data_ = true;
}

}  // namespace fathom::loadgen
