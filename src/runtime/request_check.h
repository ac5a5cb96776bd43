// Checks a request before the engine accepts it.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "runtime/request.h"

namespace fathom {

struct RequestLimits {
  int64_t vocab = 0;
  int64_t context = 0;  // tokens of prompt and answer
  int64_t pages = 0;    // of the cache
  bool keep_selection = false;
};

// Says why the request can never be served, with the value found and what is accepted (status 400).
// Returns nothing if it can be served.
std::optional<Failure> check_request(const Request& request, const RequestLimits& limits);

}  // namespace fathom
