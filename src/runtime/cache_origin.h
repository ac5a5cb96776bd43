// What rows of the cache are computed from and with. Pages may be exchanged between runs exactly
// where all of it is the same: it is where the keys of pages start from.
#pragma once

#include <string>

#include "cache/page_key.h"
#include "model/config.h"
#include "runtime/engine.h"

namespace fathom {

// Tells checkpoints apart by their config and a sample of every tensor, not by names or times: a
// copy is the same checkpoint, one fine-tuned further is another. Reads one or two pages a tensor.
// `config_file`: as given to load_config. Throws Error for what is no checkpoint.
PageKey checkpoint_digest(const std::string& folder, const std::string& config_file = {});

// With the engine's options: numerics, formats, attention and the kernels that this machine would
// run them with; and with the program's version, as a later one's kernels may round otherwise.
PageKey cache_origin(const Config& config, const EngineOptions& options);

}  // namespace fathom
