#include "model/footprint.h"

#include "model/tensor_list.h"

namespace fathom {

ParameterCount count_parameters(const Config& c) {
  ParameterCount n;
  int64_t experts = 0;
  const std::string mtp = fmt::format("model.layers.{}.", c.layers);
  for (const TensorSpec& spec : tensor_list(c)) {
    int64_t size = 1;
    for (int64_t d : spec.shape) size *= d;
    if (spec.name.compare(0, mtp.size(), mtp) == 0) {
      n.mtp += size;
      continue;
    }
    n.total += size;
    if (spec.expert >= 0) experts += size;
  }
  // All experts are of one size, so the division is exact.
  n.active = n.total - experts;
  if (c.experts > 0) n.active += experts / c.experts * c.experts_per_token;
  return n;
}

int64_t cache_bytes_per_token(const Config& c, KvFormat format) {
  int64_t row = latent_row_bytes(format, c.latent, c.rope);
  if (c.has_indexer()) row += index_row_bytes(format, c.index_dim);
  return row * c.layers;
}

}  // namespace fathom
