#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <queue>

#include "base/error.h"
#include "text/byte_alphabet.h"

namespace fathom {
namespace {

// Up to this many bytes a scan over all pairs per merge beats a heap.
constexpr size_t kShortPiece = 48;

uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return x ^ x >> 32;
}

// Bytes that begin no character and continue none: text that is valid UTF-8 never holds them.
bool occurs_in_utf8(int byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

}  // namespace

uint64_t PieceCache::hash(std::string_view piece) {
  uint64_t h = piece.size();
  size_t i = 0;
  for (; i + 8 <= piece.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, piece.data() + i, 8);
    h = mix(h ^ word);
  }
  uint64_t tail = 0;
  if (i < piece.size()) std::memcpy(&tail, piece.data() + i, piece.size() - i);
  return mix(mix(h ^ tail));
}

bool PieceCache::find(std::string_view piece, uint64_t hash, std::vector<int32_t>& out) const {
  const Slot& slot = slots_[hash % kSlots];
  if (slot.bytes != piece.size() || std::memcmp(slot.text, piece.data(), piece.size()) != 0) {
    return false;
  }
  out.insert(out.end(), slot.ids, slot.ids + slot.count);
  return true;
}

void PieceCache::insert(std::string_view piece, uint64_t hash, const int32_t* ids, size_t count) {
  if (count > kMaxIds) return;
  Slot& slot = slots_[hash % kSlots];
  slot.bytes = static_cast<uint8_t>(piece.size());
  slot.count = static_cast<uint8_t>(count);
  std::memcpy(slot.text, piece.data(), piece.size());
  std::copy_n(ids, count, slot.ids);
}

SpellingTable::SpellingTable(const std::vector<std::pair<std::string, int32_t>>& vocab)
    : entries_(std::bit_ceil(std::max<size_t>(vocab.size() * 2, 16))) {
  for (const auto& [token, id] : vocab) {
    size_t i = PieceCache::hash(token) & (entries_.size() - 1);
    while (entries_[i].id >= 0) i = (i + 1) & (entries_.size() - 1);
    entries_[i] = {text_.size(), static_cast<uint32_t>(token.size()), id};
    text_ += token;
  }
}

int32_t SpellingTable::find(std::string_view spelling) const {
  const size_t mask = entries_.size() - 1;
  for (size_t i = PieceCache::hash(spelling) & mask; entries_[i].id >= 0; i = (i + 1) & mask) {
    const Entry& e = entries_[i];
    if (std::string_view(text_).substr(e.begin, e.bytes) == spelling) return e.id;
  }
  return -1;
}

Bpe::Bpe(const TokenizerSpec& spec, std::string_view where)
    : spellings_(spec.vocab), ignore_merges_(spec.ignore_merges) {
  for (int byte = 0; byte < 256; ++byte) {
    byte_id_[byte] = id_of_spelling(byte_spellings()[byte]);
    if (byte_id_[byte] < 0 && occurs_in_utf8(byte)) {
      fail("{}: model.vocab: expected a token for every byte, found none for 0x{:02X} ('{}')",
           where, byte, byte_spellings()[byte]);
    }
  }
  merges_.resize(std::bit_ceil(std::max<size_t>(spec.merges.size() * 2, 16)));
  mask_ = merges_.size() - 1;
  std::string joined;
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    joined.assign(left).append(right);
    const int32_t ids[] = {id_of_spelling(left), id_of_spelling(right), id_of_spelling(joined)};
    for (const int i : {0, 1, 2}) {
      if (ids[i] >= 0) continue;
      fail("{}: model.merges[{}] ('{}' + '{}'): no token '{}' in model.vocab", where, rank, left,
           right,
           i == 0   ? left
           : i == 1 ? right
                    : joined);
    }
    add_merge(pair_of(ids[0], ids[1]), static_cast<int32_t>(rank), ids[2]);
  }
}

void Bpe::add_merge(uint64_t pair, int32_t rank, int32_t id) {
  size_t i = mix(pair) & mask_;
  while (merges_[i].pair != kNoPair && merges_[i].pair != pair) i = (i + 1) & mask_;
  // A pair listed twice: the later line counts, as in Hugging Face's map.
  merges_[i] = {pair, rank, id};
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (size_t i = mix(pair) & mask_; merges_[i].pair != kNoPair; i = (i + 1) & mask_) {
    if (merges_[i].pair == pair) return &merges_[i];
  }
  return nullptr;
}

void Bpe::encode(std::string_view piece, PieceCache& cache, std::vector<int32_t>& out) const {
  const bool cacheable = piece.size() <= PieceCache::kMaxBytes;
  const uint64_t hash = cacheable ? PieceCache::hash(piece) : 0;
  if (cacheable && cache.find(piece, hash, out)) return;
  const size_t first = out.size();
  const int32_t whole = ignore_merges_ ? id_of_spelling(spelling_of_bytes(piece)) : -1;
  if (whole >= 0) {
    out.push_back(whole);
  } else if (piece.size() <= kShortPiece) {
    merge_short(piece, out);
  } else {
    merge_long(piece, out);
  }
  if (cacheable) cache.insert(piece, hash, out.data() + first, out.size() - first);
}

void Bpe::merge_short(std::string_view piece, std::vector<int32_t>& out) const {
  constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
  int32_t ids[kShortPiece];
  int32_t rank[kShortPiece];    // of the pair that begins here
  int32_t merged[kShortPiece];  // its id
  size_t count = piece.size();
  const auto rate = [&](size_t i) {
    const Merge* m = i + 1 < count ? find_merge(ids[i], ids[i + 1]) : nullptr;
    rank[i] = m ? m->rank : kNever;
    merged[i] = m ? m->id : -1;
  };
  for (size_t i = 0; i < count; ++i) ids[i] = byte_id_[static_cast<uint8_t>(piece[i])];
  for (size_t i = 0; i < count; ++i) rate(i);
  while (true) {
    const size_t best = std::min_element(rank, rank + count) - rank;
    if (rank[best] == kNever) break;
    ids[best] = merged[best];
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      ids[i] = ids[i + 1];
      rank[i] = rank[i + 1];
      merged[i] = merged[i + 1];
    }
    rate(best);
    if (best > 0) rate(best - 1);
  }
  out.insert(out.end(), ids, ids + count);
}

// A linked list of symbols and a heap of candidate merges: n log n for a megabyte of one letter.
void Bpe::merge_long(std::string_view piece, std::vector<int32_t>& out) const {
  struct Symbol {
    int32_t id;
    int64_t previous, next;  // -1: none
  };
  // A candidate is stale once either of its symbols has changed; ids tell, since a symbol only ever
  // changes by growing into another token.
  struct Candidate {
    int32_t rank;
    int64_t left;
    int32_t left_id, right_id, merged;
    bool operator>(const Candidate& o) const {
      return rank != o.rank ? rank > o.rank : left > o.left;
    }
  };
  const auto size = static_cast<int64_t>(piece.size());
  std::vector<Symbol> symbols(piece.size());
  for (int64_t i = 0; i < size; ++i) {
    symbols[i] = {byte_id_[static_cast<uint8_t>(piece[i])], i - 1, i + 1 < size ? i + 1 : -1};
  }
  std::vector<Candidate> storage;
  storage.reserve(piece.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue({},
                                                                               std::move(storage));
  const auto offer = [&](int64_t left) {
    if (left < 0 || symbols[left].next < 0) return;
    const int32_t a = symbols[left].id, b = symbols[symbols[left].next].id;
    if (const Merge* m = find_merge(a, b)) queue.push({m->rank, left, a, b, m->id});
  };
  for (int64_t i = 0; i + 1 < size; ++i) offer(i);
  constexpr int32_t kGone = -1;  // swallowed by its left neighbour
  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    Symbol& left = symbols[c.left];
    if (left.id != c.left_id || left.next < 0 || symbols[left.next].id != c.right_id) continue;
    Symbol& right = symbols[left.next];
    left.id = c.merged;
    left.next = right.next;
    right.id = kGone;
    if (left.next >= 0) symbols[left.next].previous = c.left;
    offer(c.left);
    offer(left.previous);
  }
  for (int64_t i = 0; i >= 0; i = symbols[i].next) out.push_back(symbols[i].id);
}

}  // namespace fathom
