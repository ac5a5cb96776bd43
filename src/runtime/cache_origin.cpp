#include "runtime/cache_origin.h"

#include "base/error.h"
#include "base/version.h"
#include "cache/kv_pool.h"
#include "cache/page_file.h"
#include "io/mapped_file.h"
#include "kernels/cpu_ops.h"
#include "kernels/gpu.h"
#include "model/checkpoint_files.h"

namespace fathom {
namespace {

// Bytes looked at in each tensor: its first ones and as many in its middle.
constexpr size_t kSample = 256;

PageKey with(PageKey key, PageKey more) { return extended(extended(key, more.a), more.b); }
PageKey with(PageKey key, const std::string& text) {
  return with(key, digest(text.data(), text.size()));
}

}  // namespace

PageKey checkpoint_digest(const std::string& folder, const std::string& config_file) {
  const MappedFile config(config_file.empty() ? folder + "/config.json" : config_file);
  PageKey key = digest(config.data(), config.size());
  const CheckpointFiles files = CheckpointFiles::open(folder);
  for (const SafetensorsFile& file : files.files())
    for (const StoredTensor& t : file.tensors()) {
      key = with(key, fmt::format("{} {} {}", t.name, name_of(t.dtype), shape_text(t.shape)));
      const size_t n = std::min(t.bytes, kSample);
      key = with(key, digest(t.data, n));
      key = with(key, digest(t.data + std::min(t.bytes / 2, t.bytes - n), n));
    }
  return key;
}

PageKey cache_origin(const Config& config, const EngineOptions& o) {
  const ComputePlan& p = o.compute;
  const KvShape shape = kv_shape(config, p);
  const std::string kernels =
      p.device == DeviceKind::cpu ? std::string(pick_cpu_kernels(p.kernels).name) : find_gpu().name;
  return with(o.checkpoint,
              fmt::format("{} {} {} {} {} {} {} {} {} {} {}", kVersion, kPageFileVersion,
                          shape.layers, name_of(p.numerics), name_of(shape.latent_format),
                          name_of(shape.index_format), name_of(p.attention), p.batch_invariant,
                          name_of(p.device), kernels, p.layout.tensor));
}

}  // namespace fathom
