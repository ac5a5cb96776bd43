// The checked content of a DeepSeek tokenizer.json: byte-level BPE, regex splits, added tokens. A
// setting that would change the ids and is not supported is refused by name, never ignored.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/pre_tokenizer.h"

namespace fathom {

// Ids are dense in practice; the limit keeps a hostile file from asking for gigabytes of table.
inline constexpr int32_t kMaxTokenId = (1 << 24) - 1;

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;     // dropped by decode(ids, skip_special)
  bool normalized = false;  // searched after the others, in the text between them
  bool lstrip = false;      // also takes the white space on its left
  bool rstrip = false;
};

struct TokenizerSpec {
  std::vector<std::pair<std::string, int32_t>> vocab;  // in the file's spelling (byte_alphabet.h)
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  bool ignore_merges = false;
  std::vector<AddedToken> added_tokens;
  std::vector<SplitPattern> splits;
  // Ids that the post-processor puts around an encoded text; empty in DeepSeek's own files.
  std::vector<int32_t> prefix_ids, suffix_ids;
};

// `json_text` is the file's content. Throws Error, whose message begins with `where` (the file's
// path).
TokenizerSpec parse_tokenizer_spec(std::string_view json_text, std::string_view where);

}  // namespace fathom
