// Compressed bodies: every coding, broken ones, bombs.
#include "server/http/http_body.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

namespace fathom::server {
namespace {

std::string deflated(const std::string& text, int window) {
  z_stream s{};
  EXPECT_EQ(deflateInit2(&s, 9, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&s, text.size()) + 64, '\0');
  s.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  s.avail_in = static_cast<uInt>(text.size());
  s.next_out = reinterpret_cast<Bytef*>(out.data());
  s.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&s, Z_FINISH), Z_STREAM_END);
  out.resize(s.total_out);
  deflateEnd(&s);
  return out;
}
std::string gzipped(const std::string& text) { return deflated(text, MAX_WBITS + 16); }
std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

// The decoded body, or the status of the refusal.
std::string decoded(std::string_view coding, std::string body, size_t most = 1 << 20) {
  if (const auto failure = decode_body(coding, most, body)) return std::to_string(failure->status);
  return body;
}

TEST(HttpBody, EveryCodingDecodes) {
  std::string long_text;
  for (int i = 0; i < 20000; ++i) long_text += std::to_string(i * 7919);
  for (const std::string& text : {std::string("{\"a\": 1}"), long_text, std::string()}) {
    EXPECT_EQ(decoded("gzip", gzipped(text)), text);
    EXPECT_EQ(decoded("x-gzip", gzipped(text)), text);
    EXPECT_EQ(decoded("GZip", gzipped(text)), text);
    EXPECT_EQ(decoded("deflate", deflated(text, MAX_WBITS)), text);
    EXPECT_EQ(decoded("deflate", deflated(text, -MAX_WBITS)), text) << "without a header";
    EXPECT_EQ(decoded("zstd", zstd(text)), text);
    EXPECT_EQ(decoded("", text), text);
    EXPECT_EQ(decoded("identity", text), text);
  }
}

TEST(HttpBody, SeveralPartsInARow) {
  EXPECT_EQ(decoded("gzip", gzipped("one") + gzipped("") + gzipped("two")), "onetwo");
  EXPECT_EQ(decoded("zstd", zstd("one") + zstd("two")), "onetwo");
}

TEST(HttpBody, OtherCodingsAreRefused) {
  for (const char* coding : {"br", "compress", "gzip, gzip", "gzip, zstd", "*", "x"})
    EXPECT_EQ(decoded(coding, "x"), "415") << coding;
}

TEST(HttpBody, BrokenBodiesAreRefused) {
  const std::string text(5000, 'x');
  for (const auto& [coding, whole] : {std::pair<const char*, std::string>{"gzip", gzipped(text)},
                                      {"deflate", deflated(text, MAX_WBITS)},
                                      {"deflate", deflated(text, -MAX_WBITS)},
                                      {"zstd", zstd(text)}}) {
    for (size_t n = 0; n < whole.size(); ++n)
      EXPECT_EQ(decoded(coding, whole.substr(0, n)), "400") << coding << " cut at " << n;
    EXPECT_EQ(decoded(coding, whole + "more"), "400") << coding;
    EXPECT_EQ(decoded(coding, "{\"model\": \"x\", \"messages\": []}"), "400") << coding;
  }
  std::string flipped = gzipped(text);
  flipped[flipped.size() - 6] ^= 1;  // the checksum
  EXPECT_EQ(decoded("gzip", flipped), "400");
}

TEST(HttpBody, TheLimitHoldsForWhatABodyGrowsTo) {
  const std::string bomb(64 << 20, '\0');
  for (const auto& [coding, body] : {std::pair<const char*, std::string>{"gzip", gzipped(bomb)},
                                     {"deflate", deflated(bomb, MAX_WBITS)},
                                     {"zstd", zstd(bomb)}}) {
    EXPECT_LT(body.size(), 100u << 10);
    EXPECT_EQ(decoded(coding, body), "413") << coding;
  }
  const std::string text(1000, 'x');
  EXPECT_EQ(decoded("gzip", gzipped(text), 1000), text);
  EXPECT_EQ(decoded("gzip", gzipped(text), 999), "413");
  EXPECT_EQ(decoded("zstd", zstd(text), 1000), text);
  EXPECT_EQ(decoded("zstd", zstd(text), 999), "413");
}

}  // namespace
}  // namespace fathom::server
