#include "server/http/http_reader.h"

#include <gtest/gtest.h>

namespace fathom::server {
namespace {

struct Read {
  bool done = false;
  int status = 0;  // of the failure
  HttpRequest request;
  size_t used = 0;
  bool keep_alive = false;
};

// Feeds `bytes` in pieces of `step`, as sockets do: what a reader leaves is offered again.
Read read(std::string_view bytes, size_t step = 1 << 20, ReaderLimits limits = {}) {
  HttpRequestReader reader(limits);
  Read r;
  size_t end = 0;
  while (!reader.done() && end < bytes.size()) {
    end = std::min(bytes.size(), end + step);
    size_t used;
    do {
      used = reader.feed(bytes.substr(r.used, end - r.used));
      r.used += used;
    } while (used > 0 && !reader.done() && r.used < end);
  }
  r.done = reader.done();
  r.keep_alive = r.done && reader.keep_alive();
  r.request = std::move(reader.request());
  if (r.request.failure) r.status = r.request.failure->status;
  return r;
}

std::string request_of(const std::string& line, const std::string& headers = {},
                       const std::string& body = {}) {
  return line + "\r\nHost: x\r\n" + headers + "\r\n" + body;
}

TEST(HttpReader, TakesARequestHoweverItIsCut) {
  const std::string bytes =
      "POST /v1/a%20b?x=1&y=%41+b&z HTTP/1.1\r\nHost: h\r\nX-Two: a\r\n"
      "x-two: b\r\nContent-Length: 5\r\n\r\nhello";
  for (size_t step : {1, 2, 3, 7, 1000}) {
    const Read r = read(bytes + "GET /next", step);
    ASSERT_TRUE(r.done);
    ASSERT_EQ(r.status, 0);
    EXPECT_EQ(r.used, bytes.size());
    EXPECT_EQ(r.request.method, "POST");
    EXPECT_EQ(r.request.path, "/v1/a b");
    EXPECT_EQ(r.request.query_value("x"), "1");
    EXPECT_EQ(r.request.query_value("y"), "A b");
    EXPECT_TRUE(r.request.query.contains("z"));
    EXPECT_EQ(r.request.header("x-two"), "a, b");
    EXPECT_EQ(r.request.body, "hello");
    EXPECT_TRUE(r.keep_alive);
  }
}

TEST(HttpReader, TakesChunksWhereverTheyAreCut) {
  const std::string bytes =
      request_of("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n",
                 "5;name=value\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\nHost: evil\r\n\r\n");
  for (size_t step : {1, 2, 5, 1000}) {
    const Read r = read(bytes, step);
    ASSERT_TRUE(r.done);
    ASSERT_EQ(r.status, 0) << r.request.failure->message;
    EXPECT_EQ(r.request.body, "hello world");
    EXPECT_EQ(r.request.header("host"), "x");  // trailers override nothing
    EXPECT_EQ(r.used, bytes.size());
  }
}

TEST(HttpReader, RefusesWhatTwoServersCouldReadDifferently) {
  const struct {
    const char* headers;
    int status;
  } cases[] = {
      {"Content-Length: 5\r\nContent-Length: 5\r\n", 400},
      {"Content-Length: 5\r\nContent-Length: 6\r\n", 400},
      {"Content-Length: 5, 5\r\n", 400},
      {"Content-Length: +5\r\n", 400},
      {"Content-Length: -1\r\n", 400},
      {"Content-Length: 0x5\r\n", 400},
      {"Content-Length: 99999999999999999999999999\r\n", 400},
      {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400},
      {"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400},
      {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400},
      {"Transfer-Encoding: gzip, chunked\r\n", 501},
      {"Transfer-Encoding: identity\r\n", 501},
      {"Transfer-Encoding: xchunked\r\n", 501},
      {"Transfer-Encoding : chunked\r\n", 400},
      {"Host: other\r\n", 400},
      {"Expect: the-unexpected\r\n", 417},
      {"Broken\r\n", 400},
      {"Na me: x\r\n", 400},
      {"Value: a\rb\r\n", 400},
  };
  for (const auto& c : cases) {
    const Read r = read(request_of("POST / HTTP/1.1", c.headers, "hello"));
    EXPECT_TRUE(r.done);
    EXPECT_EQ(r.status, c.status) << c.headers;
    EXPECT_FALSE(r.keep_alive);
  }
  const std::string nul(1, '\0');
  EXPECT_EQ(read(request_of("GET / HTTP/1.1", "A: " + nul + "\r\n")).status, 400);
  EXPECT_EQ(read(request_of("GET /" + nul + " HTTP/1.1")).status, 400);
  EXPECT_EQ(read("GET / HTTP/1.1\r\n\r\n").status, 400);  // no host
  EXPECT_EQ(read(request_of("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n")).status, 400);
}

TEST(HttpReader, TargetsArePathsWithoutControlCharacters) {
  for (const char* target : {"x", "//%", "/%", "/%4", "/%zz", "/a%00b", "/a%0d%0ab", "/?q=%0a",
                             "/%7f", "host:80", "http://", "ftp://x/", "*"}) {
    const Read r = read(request_of(std::string("GET ") + target + " HTTP/1.1"));
    EXPECT_EQ(r.status, 400) << target;
  }
  const struct {
    const char *target, *path;
  } good[] = {{"/", "/"},
              {"/a/../b", "/a/../b"},
              {"/%e4%bd%a0", "\xe4\xbd\xa0"},
              {"http://host/a?b=c", "/a"},
              {"//v1//models/", "/v1/models"},
              {"/v1/models///", "/v1/models"},
              {"///", "/"},
              {"HTTP://host:1", "/"},
              {"https://host?b=c", "/"},
              {"/a#b", "/a"}};
  for (const auto& g : good) {
    const Read r = read(request_of(std::string("GET ") + g.target + " HTTP/1.1"));
    EXPECT_EQ(r.status, 0) << g.target;
    EXPECT_EQ(r.request.path, g.path == std::string("\xe4\xbd\xa0") ? "/\xe4\xbd\xa0" : g.path);
  }
  EXPECT_EQ(read(request_of("OPTIONS * HTTP/1.1")).status, 0);
}

TEST(HttpReader, LimitsHeads) {
  const ReaderLimits small{1000, 1000};
  const std::string long_value(2000, 'a');
  EXPECT_EQ(read(request_of("GET /" + long_value + " HTTP/1.1"), 1 << 20, small).status, 431);
  EXPECT_EQ(read("GET /" + long_value, 100, small).status, 431);
  EXPECT_EQ(read(request_of("GET / HTTP/1.1", "A: " + long_value + "\r\n"), 64, small).status, 431);
  std::string many;
  for (int i = 0; i < 200; ++i) many += "A" + std::to_string(i) + ": b\r\n";
  for (size_t step : {1, 50, 100000})
    EXPECT_EQ(read(request_of("GET / HTTP/1.1", many), step, small).status, 431) << step;
  EXPECT_EQ(read(request_of("GET / HTTP/1.1", "A: " + long_value + "\r\n")).status, 0);
}

TEST(HttpReader, LimitsBodies) {
  const ReaderLimits small{1000, 10};
  // Said in advance: refused before it comes.
  const Read told = read(request_of("POST / HTTP/1.1", "Content-Length: 11\r\n"), 1 << 20, small);
  EXPECT_EQ(told.status, 413);
  const std::string chunked = "Transfer-Encoding: chunked\r\n";
  EXPECT_EQ(read(request_of("POST / HTTP/1.1", chunked, "6\r\nhello!\r\n6\r\nhello!\r\n"), 1, small)
                .status,
            413);
  EXPECT_EQ(read(request_of("POST / HTTP/1.1", chunked, "ffffffffffffffff\r\n"), 1, small).status,
            413);
  EXPECT_EQ(read(request_of("POST / HTTP/1.1", chunked, "fffffffffffffffff\r\n"), 1, small).status,
            400);
  EXPECT_EQ(read(request_of("POST / HTTP/1.1", chunked, "1;" + std::string(3000, 'a')), 100, small)
                .status,
            400);
  EXPECT_EQ(
      read(request_of("POST / HTTP/1.1", "Content-Length: 10\r\n", "0123456789"), 3, small).status,
      0);
}

TEST(HttpReader, KnowsVersions) {
  EXPECT_EQ(read(request_of("GET / HTTP/2.0")).status, 505);
  EXPECT_EQ(read("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status, 505);
  EXPECT_EQ(read(request_of("GET / HTTP/1.2")).status, 505);
  EXPECT_EQ(read(request_of("GET / HTTX/1.1")).status, 400);
  EXPECT_EQ(read("\x16\x03\x01\x02garbage\r\n\r\n").status, 400);  // TLS at a plain port
  EXPECT_FALSE(read("GET / HTTP/1.0\r\n\r\n").keep_alive);
  EXPECT_TRUE(read("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
  EXPECT_FALSE(read(request_of("GET / HTTP/1.1", "Connection: close\r\n")).keep_alive);
}

}  // namespace
}  // namespace fathom::server
