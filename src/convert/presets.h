// Configurations that random checkpoints are made from.
#pragma once

#include <string>

namespace fathom {

// The config.json of a preset:
// - tiny: two layers of small sizes that are no powers of two; tests run it in milliseconds
// - slice: one MoE layer of the real model, an eighth of its vocabulary; about 12 GB
// - 671b: the real model without its MTP block, 3 dense and 58 MoE layers
// - 671b-layers=N: one dense and N MoE layers of it, full vocabulary
// Throws UsageError for anything else.
std::string preset_config(const std::string& preset);

}  // namespace fathom
