// Server-sent events back as JSON, with the checks that every stream passes.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "text/python_json.h"

namespace fathom::test {

// The data of every event of `bytes`; where an event has a name, it must be the data's `type`.
inline std::vector<OrderedJson> sse_events(std::string_view bytes) {
  std::vector<OrderedJson> events;
  while (!bytes.empty()) {
    const size_t end = bytes.find("\n\n");
    if (end == bytes.npos) {
      ADD_FAILURE() << "an event without its end: " << bytes;
      break;
    }
    std::string_view event = bytes.substr(0, end);
    bytes.remove_prefix(end + 2);
    std::string name;
    if (event.starts_with("event: ")) {
      const size_t line = event.find('\n');
      name = event.substr(7, line - 7);
      event.remove_prefix(line + 1);
    }
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    OrderedJson data = OrderedJson::parse(event.substr(6), nullptr, false);
    EXPECT_FALSE(data.is_discarded()) << event;
    if (!name.empty()) {
      EXPECT_EQ(data["type"], name);
    }
    events.push_back(std::move(data));
  }
  return events;
}

}  // namespace fathom::test
