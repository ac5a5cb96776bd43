// A key that identifies everything on which the bits of cache rows depend. The keys of pages start
// from it, so two runs share stored pages exactly if all of this is the same.
#pragma once

#include <string>

#include "cache/page_key.h"
#include "model/config.h"
#include "runtime/engine.h"

namespace fathom {

// Identifies a checkpoint by its config and a sample of every tensor, not by file names or times: a
// copy is the same checkpoint, a fine-tuned one is another. Reads one or two memory pages per
// tensor. `config_file`: as given to load_config. Throws Error if the folder is no checkpoint.
PageKey checkpoint_digest(const std::string& folder, const std::string& config_file = {});

// The digest of the checkpoint together with the engine's numerics, formats and attention, the
// kernels that this machine uses for them, the number of ranks that are summed over, and the
// program's version: the kernels of a later version may round differently.
PageKey cache_origin(const Config& config, const EngineOptions& options);

}  // namespace fathom
