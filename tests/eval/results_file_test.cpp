#include "eval/results_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "support/temp_folder.h"

namespace fathom::eval {
namespace {

using testing::HasSubstr;

Record record(size_t item, double value) {
  Record r;
  r.item = item;
  r.value = value;
  r.weight = 3;
  r.detail["answer"] = "caf\u00e9 \"x\"";
  return r;
}
RunLabel label(uint64_t run) { return {{run, 1}, "task", "sparse"}; }

std::string text_at(const std::string& path) {
  std::ostringstream s;
  s << std::ifstream(path, std::ios::binary).rdbuf();
  return s.str();
}

std::string refusal_of_file(const std::string& path) {
  try {
    const ResultsFile file(path);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(ResultsFile, KeepsRecordsToTheLastBit) {
  const test::TempFolder dir;
  const std::string path = dir.file("r.jsonl");
  const double third = 1.0 / 3;
  {
    ResultsFile file(path);
    file.append(label(1), "a:1", record(0, third));
    file.append(label(2), "a:1", record(0, 5));
    file.append(label(1), "a:2", record(1, 1e-300));
    EXPECT_EQ(file.find({1, 1}).size(), 2u);
  }
  const ResultsFile file(path);
  const auto found = file.find({1, 1});
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found.at(0).value, third);
  EXPECT_EQ(found.at(1).value, 1e-300);
  EXPECT_EQ(found.at(0).weight, 3);
  EXPECT_EQ(found.at(0).detail.at("answer"), "caf\u00e9 \"x\"");
  EXPECT_EQ(file.find({2, 1}).size(), 1u);
  EXPECT_TRUE(file.find({3, 1}).empty());
}

TEST(ResultsFile, ALineThatWasCutOffIsTakenOff) {
  const test::TempFolder dir;
  const std::string path = dir.file("r.jsonl");
  {
    ResultsFile file(path);
    file.append(label(1), "a:1", record(0, 1));
  }
  const std::string whole = text_at(path);
  for (size_t cut : {size_t{1}, whole.size() / 2, whole.size() - 1}) {
    std::ofstream(path, std::ios::binary) << whole << whole.substr(0, cut);
    {
      ResultsFile file(path);
      EXPECT_EQ(file.find({1, 1}).size(), 1u);
      file.append(label(1), "a:2", record(1, 2));
    }
    EXPECT_EQ(ResultsFile(path).find({1, 1}).size(), 2u) << cut;
  }
}

TEST(ResultsFile, RefusesWhatIsNone) {
  const test::TempFolder dir;
  const std::string path = dir.file("notes.txt");
  std::ofstream(path) << "hello\n";
  EXPECT_THAT(refusal_of_file(path), HasSubstr("line 1 is no result"));
  EXPECT_EQ(text_at(path), "hello\n");
  // Without an end of line it is not taken for a result that was cut off.
  for (const char* text : {"hello", "{\"a\": 1}", "hello\n{\"run\":\"12"}) {
    std::ofstream(path) << text;
    EXPECT_THAT(refusal_of_file(path), HasSubstr("line 1 is no result")) << text;
    EXPECT_EQ(text_at(path), text);
  }
  std::ofstream(path) << "{\"run\": 3, \"item\": 1, \"value\": 1, \"weight\": 1, \"detail\": {}}\n";
  EXPECT_THAT(refusal_of_file(path), HasSubstr("line 1"));
  EXPECT_THAT(refusal_of_file(dir.file("no/such/folder")), HasSubstr("cannot be opened"));
}

TEST(ResultsFile, OneRunAtATimeWrites) {
  const test::TempFolder dir;
  const ResultsFile first(dir.file("r.jsonl"));
  EXPECT_THAT(refusal_of_file(dir.file("r.jsonl")), HasSubstr("another run"));
}

TEST(ResultsFile, WhatIsNoNumberIsAnError) {
  ResultsFile file;
  EXPECT_THROW(file.append(label(1), "a:1", record(0, NAN)), Error);
}

}  // namespace
}  // namespace fathom::eval
