// Positions in a config: rope's base and YaRN, in all the spellings that Hugging Face has had for
// them.
#pragma once

#include "model/config.h"
#include "model/config_reader.h"

namespace fathom {

// Reads rope_theta, rope_scaling and rope_parameters (perhaps nested by layer type) into `c`, whose
// head sizes have been read. What says something twice must say the same; a key inside of them that
// is not understood is a problem, for leaving it out would change every answer.
void read_rope(ConfigReader& r, Config& c);

}  // namespace fathom
