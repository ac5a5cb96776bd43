// Reads server-sent events from a byte stream that may be cut anywhere (WHATWG HTML, section 9.2).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fathom::loadgen {

class SseReader {
 public:
  // Returns the `data` of every event that these bytes complete. Several data lines of one event
  // are joined by line feeds. Comments, ids and event names are skipped.
  std::vector<std::string> feed(std::string_view bytes);

 private:
  void end_line(std::vector<std::string>& events);

  std::string line_, data_;
  bool has_data_ = false;
  bool after_cr_ = false;  // a line feed right after it belongs to the same line end
};

}  // namespace fathom::loadgen
