// Decompresses bodies with a Content-Encoding, within the size limit of plain bodies.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fathom::server {

// The Accept-Encoding of the answer to an unknown coding.
inline constexpr std::string_view kBodyCodings = "gzip, deflate, zstd";

// Decodes `body` in place: gzip (RFC 1952, any number of members), deflate (RFC 1950, and RFC 1951
// as some clients send it) or zstd (RFC 8878); identity and no coding leave it. Returns a Failure
// for what is wrong: 415 for another coding, 413 for more than `most` bytes, 400 for bytes that are
// not in the coding. Never allocates more than `most` bytes besides the body.
std::optional<Failure> decode_body(std::string_view coding, size_t most, std::string& body);

}  // namespace fathom::server
