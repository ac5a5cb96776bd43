// Reads rope's base and YaRN from a config, in all the spellings that Hugging Face has used.
#pragma once

#include "model/config.h"
#include "model/config_reader.h"

namespace fathom {

// Reads rope_theta, rope_scaling and rope_parameters (perhaps nested by layer type) into `c`, whose
// head sizes must have been read. A value that is given twice must be the same both times. An
// unknown key inside of them is a problem, because ignoring it would change every answer.
void read_rope(ConfigReader& r, Config& c);

}  // namespace fathom
