// The answer of GET /tokenizer_info. Clients that count tokens or render prompts themselves read it
// before their first request.
#pragma once

#include <filesystem>

#include "text/messages.h"
#include "text/tokenizer.h"

namespace fathom::server {

// Returns the folder's tokenizer_config.json with special tokens as plain strings. If it has no
// `bos_token` or `eos_token`, they are those of the model's ids. Throws Error if the file exists
// and cannot be read.
OrderedJson tokenizer_info(const std::filesystem::path& folder, const Tokenizer& tokenizer,
                           int32_t bos, int32_t eos);

}  // namespace fathom::server
