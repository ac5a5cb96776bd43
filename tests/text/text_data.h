// Where the tokenizer tests find their files.
#pragma once

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace fathom::test {

inline std::string source_path(const std::string& relative) {
  return std::string(FATHOM_SOURCE_DIR) + "/" + relative;
}

inline std::string read_source(const std::string& relative) {
  std::ifstream file(source_path(relative), std::ios::binary);
  if (!file) throw std::runtime_error("no file " + relative);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::vector<nlohmann::json> read_jsonl(const std::string& relative) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(source_path(relative), std::ios::binary);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) lines.push_back(nlohmann::json::parse(line));
  }
  return lines;
}

// Loaded once for all tests of the program: they only read.
inline const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::from_folder(source_path("models/small"));
  return tokenizer;
}

inline const Tokenizer& deepseek_tokenizer() {
  static const Tokenizer tokenizer =
      Tokenizer::from_json(read_source("tests/data/deepseek-tokenizer.json"), "deepseek");
  return tokenizer;
}

}  // namespace fathom::test
