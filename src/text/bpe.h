// Byte-pair encoding of one piece of text: start from its bytes and merge the adjacent pair of best
// rank (of equal ones the leftmost) until no pair can be merged.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer_file.h"

namespace fathom {

// Maps pieces to their ids: a flat table of fixed size, in which a new entry replaces the one in
// its slot. A look-up reads one cache line. Texts repeat their words, so most pieces are found here
// and need no merging.
class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 26, kMaxIds = 8;

  PieceCache() : slots_(kSlots) {}

  // Appends the ids of `piece` to `out`; returns false if the table does not have it.
  bool find(std::string_view piece, uint64_t hash, std::vector<int32_t>& out) const;
  void insert(std::string_view piece, uint64_t hash, const int32_t* ids, size_t count);
  static uint64_t hash(std::string_view piece);

 private:
  static constexpr size_t kSlots = size_t{1} << 15;  // 2 MiB
  struct alignas(64) Slot {
    uint8_t bytes = 0, count = 0;  // bytes 0: empty
    char text[kMaxBytes];
    int32_t ids[kMaxIds];
  };
  static_assert(sizeof(Slot) == 64);

  std::vector<Slot> slots_;
};

// Maps token spellings to ids. It is a flat table, filled once, because loading the merges asks it
// 400,000 times.
class SpellingTable {
 public:
  explicit SpellingTable(const std::vector<std::pair<std::string, int32_t>>& vocab);

  int32_t find(std::string_view spelling) const;  // -1: not there

 private:
  struct Entry {
    size_t begin = 0;  // in text_
    uint32_t bytes = 0;
    int32_t id = -1;  // -1: empty
  };
  std::string text_;
  std::vector<Entry> entries_;  // open addressing, at most half full
};

class Bpe {
 public:
  // Throws Error, whose message begins with `where`, for merges of unknown tokens and for bytes
  // without a token.
  Bpe(const TokenizerSpec& spec, std::string_view where);

  // Appends the ids of a non-empty piece.
  void encode(std::string_view piece, PieceCache& cache, std::vector<int32_t>& out) const;

  // Returns the id of a token in the file's spelling; -1 if there is none.
  int32_t id_of_spelling(std::string_view spelling) const { return spellings_.find(spelling); }

 private:
  struct Merge {
    uint64_t pair = kNoPair;  // left id << 32 | right id
    int32_t rank = 0;
    int32_t id = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static uint64_t pair_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  void add_merge(uint64_t pair, int32_t rank, int32_t id);
  const Merge* find_merge(int32_t left, int32_t right) const;
  void merge_short(std::string_view piece, std::vector<int32_t>& out) const;
  void merge_long(std::string_view piece, std::vector<int32_t>& out) const;

  SpellingTable spellings_;
  std::array<int32_t, 256> byte_id_{};
  std::vector<Merge> merges_;  // open addressing, at most half full
  size_t mask_ = 0;
  bool ignore_merges_ = false;
};

}  // namespace fathom
