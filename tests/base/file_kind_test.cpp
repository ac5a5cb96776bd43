// Files that are not what they were taken for.
#include "base/file_kind.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace fathom {
namespace {

using testing::HasSubstr;
using namespace std::string_literals;

TEST(StrangerKind, WhatDownloadsLeaveBehind) {
  EXPECT_THAT(unexpected_file_kind(""), HasSubstr("empty"));
  EXPECT_THAT(
      unexpected_file_kind("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n"),
      HasSubstr("Git LFS pointer"));
  for (const char* page :
       {"<!DOCTYPE html><html>", "<!doctype HTML>", "\n\n  <HTML lang=en>", "\xEF\xBB\xBF<html>"})
    EXPECT_THAT(unexpected_file_kind(page), HasSubstr("HTML page")) << page;
  EXPECT_THAT(unexpected_file_kind("<?xml version=\"1.0\"?><Error>"), HasSubstr("XML document"));
  EXPECT_THAT(unexpected_file_kind("PK\x03\x04 archive/data.pkl"), HasSubstr("ZIP archive"));
  EXPECT_THAT(unexpected_file_kind("GGUF\x03"), HasSubstr("GGUF"));
  EXPECT_THAT(unexpected_file_kind("\x1F\x8B\x08"), HasSubstr("compressed"));
}

TEST(StrangerKind, WhatMayBeRightIsNoStranger) {
  for (const std::string& text : {"{\"a\": 1}"s, "Hello"s, "\x02\0\0\0\0\0\0\0{}"s, "<think>"s,
                                  "version https://example"s, " "s})
    EXPECT_EQ(unexpected_file_kind(text), "") << text;
}

TEST(ByteOrderMark, Utf8sIsDropped) {
  EXPECT_EQ(without_byte_order_mark("\xEF\xBB\xBFHello", "here"), "Hello");
  EXPECT_EQ(without_byte_order_mark("\xEF\xBB\xBF", "here"), "");
  // One, and at the start: the character inside a text is a character.
  EXPECT_EQ(without_byte_order_mark("\xEF\xBB\xBF\xEF\xBB\xBFx", "here"), "\xEF\xBB\xBFx");
  for (const char* text : {"", "Hello", "\xEF\xBB", "x\xEF\xBB\xBF", "\xEF\xBB\xBE"})
    EXPECT_EQ(without_byte_order_mark(text, "here"), text);
}

TEST(ByteOrderMark, OtherEncodingsAreNamed) {
  const auto message = [](const std::string& text) {
    try {
      without_byte_order_mark(text, "prompts.txt");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(message("\xFF\xFEH\0"s), HasSubstr("prompts.txt: the text is UTF-16"));
  EXPECT_THAT(message("\xFE\xFF\0H"s), HasSubstr("UTF-16"));
  EXPECT_THAT(message("\xFF\xFE\0\0H\0\0\0"s), HasSubstr("UTF-32"));
  EXPECT_THAT(message("\0\0\xFE\xFF"s), HasSubstr("UTF-32"));
}

}  // namespace
}  // namespace fathom
