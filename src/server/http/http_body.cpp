#include "server/http/http_body.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace fathom::server {
namespace {

constexpr size_t kBlock = 64 << 10;
constexpr int kZstdWindowLog = 27;  // 128 MiB, what a decoder has to support (RFC 8878, 3.1.1.1.2)

Failure too_large(size_t most) {
  return {413, fmt::format("the request's body has more than the {} bytes that are accepted, once "
                           "it is decompressed",
                           most)};
}

Failure broken(std::string_view coding) {
  return {400, fmt::format("the request's body is not {}, as its Content-Encoding says", coding)};
}

// Appends what `fill` puts into a block until it says that it is done. `fill` returns the number of
// bytes, or nothing for input that is broken.
template <class Fill>
std::optional<Failure> collect(std::string_view coding, size_t most, std::string& out, Fill fill) {
  std::string block(kBlock, '\0');
  for (bool done = false; !done;) {
    const std::optional<size_t> bytes = fill(block, done);
    if (!bytes) return broken(coding);
    if (out.size() + *bytes > most) return too_large(most);
    out.append(block, 0, *bytes);
  }
  return std::nullopt;
}

bool has_zlib_header(std::string_view body) {
  if (body.size() < 2) return false;
  const auto first = static_cast<uint8_t>(body[0]), second = static_cast<uint8_t>(body[1]);
  return (first & 0x0F) == Z_DEFLATED && (first * 256 + second) % 31 == 0;
}

class Inflater {
 public:
  // `window`: zlib's windowBits, which also selects the format around the data.
  Inflater(std::string_view body, int window) {
    good_ = inflateInit2(&stream_, window) == Z_OK;
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(body.data()));
    stream_.avail_in = static_cast<uInt>(body.size());
  }
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  std::optional<size_t> fill(std::string& block, bool members, bool& done) {
    if (!good_) return std::nullopt;
    stream_.next_out = reinterpret_cast<Bytef*>(block.data());
    stream_.avail_out = static_cast<uInt>(block.size());
    const int status = inflate(&stream_, Z_NO_FLUSH);
    const size_t bytes = block.size() - stream_.avail_out;
    if (status == Z_STREAM_END) {
      done = stream_.avail_in == 0;
      // There is more input: another gzip member, or bytes that do not belong to the body.
      if (!done && (!members || inflateReset(&stream_) != Z_OK)) return std::nullopt;
      return bytes;
    }
    // No output and no input left: the data has been cut off.
    if (status != Z_OK || (bytes == 0 && stream_.avail_in == 0)) return std::nullopt;
    return bytes;
  }

 private:
  z_stream stream_{};
  bool good_ = false;
};

std::optional<Failure> inflate_body(std::string_view coding, std::string_view body, size_t most,
                                    std::string& out) {
  const bool gzip = coding == "gzip";
  const int window = gzip ? MAX_WBITS + 16 : has_zlib_header(body) ? MAX_WBITS : -MAX_WBITS;
  Inflater inflater(body, window);
  return collect(coding, most, out,
                 [&](std::string& block, bool& done) { return inflater.fill(block, gzip, done); });
}

std::optional<Failure> unzstd_body(std::string_view body, size_t most, std::string& out) {
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(),
                                                                   ZSTD_freeDCtx);
  if (!context) return broken("zstd");
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kZstdWindowLog);
  ZSTD_inBuffer in{body.data(), body.size(), 0};
  return collect("zstd", most, out, [&](std::string& block, bool& done) -> std::optional<size_t> {
    ZSTD_outBuffer to{block.data(), block.size(), 0};
    const size_t before = in.pos;
    const size_t left = ZSTD_decompressStream(context.get(), &to, &in);
    if (ZSTD_isError(left)) return std::nullopt;
    done = left == 0 && in.pos == in.size;
    if (!done && to.pos == 0 && in.pos == before) return std::nullopt;
    return to.pos;
  });
}

std::string lower_case(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  });
  return out;
}

}  // namespace

std::optional<Failure> decode_body(std::string_view coding, size_t most, std::string& body) {
  std::string name = lower_case(coding);
  if (name == "x-gzip") name = "gzip";  // RFC 9110, 8.4.1.3
  if (name.empty() || name == "identity") return std::nullopt;
  if (name != "gzip" && name != "deflate" && name != "zstd") {
    return Failure{
        415, fmt::format("Content-Encoding: expected one of {}, found '{}'", kBodyCodings, coding)};
  }
  std::string plain;
  auto failure =
      name == "zstd" ? unzstd_body(body, most, plain) : inflate_body(name, body, most, plain);
  if (failure) return failure;
  body = std::move(plain);
  return std::nullopt;
}

}  // namespace fathom::server
