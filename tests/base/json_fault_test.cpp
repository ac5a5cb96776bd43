// What keeps a text from being JSON is said in words that are not the library's.
#include "base/json_fault.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace fathom {
namespace {

using namespace std::string_literals;

std::string fault_of(const std::string& text) {
  try {
    fail_json(text, "here");
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(JsonFault, NamesThePlaceAndWhatStandsThere) {
  const std::string string =
      ": a control character, an escape that is none, half of a surrogate pair or broken UTF-8";
  const std::pair<std::string, std::string> cases[] = {
      {"{", "it ends too early, at byte 1"},
      {"  ", "it ends too early, at byte 2"},
      {"{\"a\": \"x", "it ends too early, at byte 8"},
      {"{\"a\": 1e999}", "at byte 6: the number 1e999 is out of range"},
      {"[-1e999", "at byte 1: the number -1e999 is out of range"},
      {"{\"a\": NaN}", "at byte 6: NaN is not expected there"},
      {"{\"a\": 01}", "at byte 6: 01 is not expected there"},
      {"{\"a\": 1 \"b\": 2}", "at byte 8: \"b\" is not expected there"},
      {"{a: 1}", "at byte 1: a is not expected there"},
      {"[1, ]", "at byte 4: ] is not expected there"},
      {"{} x", "at byte 3: x follows after its end"},
      {"[1]]", "at byte 3: ] follows after its end"},
      {"{\"a\": \"\\ud800\"}", "at byte 13: in the string \"\\ud800\"" + string},
      {"{\"a\": \"\\q\"}", "at byte 8: in the string \"\\q\"" + string},
      {"{\"a\": \"x\ny\"}", "at byte 8: in the string \"x?y\"" + string},
      {"{\"a\": \"x\0y\"}"s, "at byte 8: in the string \"x?y\"" + string},
      {"{\"a\": \"\xFFy\"}", "at byte 7: in the string \"?y\"" + string},
      {"nothing of this is JSON", "at byte 0: nothing is not expected there"},
      {std::string(40, 'x'), "at byte 0: " + std::string(24, 'x') + "... is not expected there"},
  };
  for (const auto& [text, fault] : cases)
    EXPECT_EQ(fault_of(text), "here: not valid JSON: " + fault) << text;
}

TEST(JsonFault, NamesOtherKindsOfFiles) {
  EXPECT_THAT(fault_of(""), testing::StartsWith("here: not valid JSON: it is empty"));
  EXPECT_THAT(fault_of("<!doctype html>"), testing::HasSubstr("it is an HTML page"));
}

}  // namespace
}  // namespace fathom
