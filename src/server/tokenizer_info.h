// What GET /tokenizer_info says: clients that count tokens themselves, or set up prompts by the
// model's own template, ask for it before their first request.
#pragma once

#include <filesystem>

#include "text/messages.h"
#include "text/tokenizer.h"

namespace fathom::server {

// The folder's tokenizer_config.json with special tokens as plain strings, `bos_token` and
// `eos_token` from the model's ids where the file has none. Throws Error when the file is there and
// cannot be read.
OrderedJson tokenizer_info(const std::filesystem::path& folder, const Tokenizer& tokenizer,
                           int32_t bos, int32_t eos);

}  // namespace fathom::server
