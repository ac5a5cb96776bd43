// Any bytes are either refused with an Error or give tensors that lie inside them.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  // A copy of its own, so that the address sanitizer sees a read past the end.
  std::vector<std::byte> file(size);
  std::copy_n(reinterpret_cast<const std::byte*>(data), size, file.data());
  SafetensorsHeader header;
  try {
    header = parse_safetensors(file.data(), file.size(), "fuzz");
  } catch (const Error&) {
    return 0;
  }
  uint64_t at = header.data_start;
  for (const auto& e : header.entries) {
    FATHOM_CHECK(header.data_start + e.begin == at, "hole or overlap at {}", at);
    at = header.data_start + e.end;
    FATHOM_CHECK(at <= size, "tensor ends at {} of {}", at, size);
    if (!e.dtype) continue;  // one that nothing here computes with
    StoredTensor t{e.name,          *e.dtype, e.shape, file.data() + header.data_start + e.begin,
                   e.end - e.begin, "fuzz"};
    FATHOM_CHECK(t.bytes % size_of(t.dtype) == 0, "{} bytes of {}", t.bytes, name_of(t.dtype));
    try {
      FATHOM_CHECK(to_floats(t).size() == static_cast<size_t>(t.elements()), "values");
    } catch (const Error&) {  // an integer dtype
    }
  }
  FATHOM_CHECK(at == size, "tensors end at {} of {}", at, size);
  return 0;
}
