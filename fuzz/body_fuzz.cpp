// Any bytes as a compressed body: plain bytes within the limit, or a Failure, never anything else.
// The first byte picks the coding.
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>

#include "base/check.h"
#include "server/http/http_body.h"

using namespace fathom;
using namespace fathom::server;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr const char* kCodings[] = {"gzip", "deflate", "zstd", "x-gzip", "br", ""};
  constexpr size_t kMost = 1 << 16;
  if (size == 0) return 0;
  const char* coding = kCodings[data[0] % std::size(kCodings)];
  std::string body(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string before = body;
  const auto failure = decode_body(coding, kMost, body);
  if (failure) {
    FATHOM_CHECK(failure->status == 400 || failure->status == 413 || failure->status == 415,
                 "status {}", failure->status);
    FATHOM_CHECK(body == before, "a body that is refused has changed");
  } else {
    FATHOM_CHECK(*coding == 0 || body.size() <= kMost, "{} bytes of {}", body.size(), kMost);
  }
  return 0;
}
