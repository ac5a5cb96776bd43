// How URLs and Host headers write an address.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace fathom {

// "host:port"; an IPv6 address stands in brackets.
inline std::string authority(std::string_view host, int port) {
  const bool bare_v6 = host.find(':') != host.npos && host.front() != '[';
  return bare_v6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

}  // namespace fathom
