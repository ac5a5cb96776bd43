// Any text is either refused with an Error or gives a config whose sizes can be computed with.
#include <cmath>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  Config c;
  try {
    c = parse_config({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const Error&) {
    return 0;
  }
  FATHOM_CHECK(c.vocab > 0 && c.hidden > 0 && c.layers > 0 && c.heads > 0, "sizes");
  FATHOM_CHECK(c.dense_layers <= c.layers, "{} of {}", c.dense_layers, c.layers);
  FATHOM_CHECK(c.bos >= 0 && c.bos < c.vocab && c.eos >= 0 && c.eos < c.vocab, "tokens");
  FATHOM_CHECK(int64_t{c.heads} * (c.qk_dim() + c.value) < INT32_MAX, "head rows");
  FATHOM_CHECK(int64_t{c.index_heads} * c.index_dim < INT32_MAX, "index rows");
  if (c.experts > 0)
    FATHOM_CHECK(c.experts % c.groups == 0 && c.kept_groups <= c.groups &&
                     c.experts_per_token <= c.kept_groups * (c.experts / c.groups),
                 "router");
  FATHOM_CHECK(std::isfinite(c.attention_scale()), "scale {}", c.attention_scale());
  for (float f : rope_frequencies(c.rope, c.rope_theta, c.yarn ? &*c.yarn : nullptr))
    FATHOM_CHECK(std::isfinite(f) && f >= 0, "frequency {}", f);
  return 0;
}
