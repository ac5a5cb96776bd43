// The size of a model, computed from its config alone.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "numerics/cache_rows.h"

namespace fathom {

struct ParameterCount {
  int64_t total = 0;   // without the MTP layer: the number in a model's name
  int64_t active = 0;  // used for one token: all but the experts that were not chosen
  int64_t mtp = 0;     // the MTP layer's own
};
ParameterCount count_parameters(const Config& c);

// Cache bytes of one token over all layers, MTP not counted: a latent row and, with an indexer, an
// indexer row in each.
int64_t cache_bytes_per_token(const Config& c, KvFormat format);

}  // namespace fathom
