// Bodies that arrive compressed (Content-Encoding), made plain within the limit of plain ones.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fathom::server {

// What Accept-Encoding answers to a coding that is not known here.
inline constexpr std::string_view kBodyCodings = "gzip, deflate, zstd";

// Decodes `body` in place: gzip (RFC 1952, any number of members), deflate (RFC 1950, and RFC 1951
// as some clients send it) or zstd (RFC 8878); identity and no coding leave it. A Failure says what
// is wrong: 415 for another coding, 413 for more than `most` bytes, 400 for bytes that are not of
// the coding. No more than `most` bytes are ever held beside the body.
std::optional<Failure> decode_body(std::string_view coding, size_t most, std::string& body);

}  // namespace fathom::server
