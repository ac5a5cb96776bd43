#include "server/selection_store.h"

#include <deque>
#include <mutex>
#include <span>
#include <unordered_map>
#include <utility>

namespace fathom::server {
namespace {

// The positions of one layer, ascending, as bytes: each is written as the gap to the one before
// (the first to -1), seven bits a byte, the lowest first. A gap is never 0, so a 0 byte is free to
// say "and the next N positions too", which keeps short contexts, where everything is selected, to
// a few bytes.
constexpr size_t kShortestRun = 3;  // a run costs two bytes or more

constexpr size_t kLongestNumber = 10;  // bytes of 64 bits, seven a byte

char* put_number(char* out, uint64_t value) {
  while (value >= 0x80) {
    *out++ = static_cast<char>(value | 0x80);
    value >>= 7;
  }
  *out++ = static_cast<char>(value);
  return out;
}

uint64_t take_number(std::string_view& in) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(in.front());
    in.remove_prefix(1);
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
}

// Uses a plain pointer for speed: 61 layers of 2048 positions a token are written on the engine's
// thread.
char* put_positions(char* out, std::span<const int32_t> positions) {
  out = put_number(out, positions.size());
  const int32_t* at = positions.data();
  const int32_t* const end = at + positions.size();
  for (int32_t before = -1; at != end; before = at[-1]) {
    if (*at != before + 1) {
      out = put_number(out, static_cast<uint64_t>(*at++ - before));
      continue;
    }
    const int32_t* const first = at++;
    while (at != end && *at == at[-1] + 1) ++at;
    const auto run = static_cast<size_t>(at - first);
    if (run >= kShortestRun) {
      *out++ = 0;
      out = put_number(out, run);
    } else {
      for (size_t i = 0; i < run; ++i) *out++ = 1;
    }
  }
  return out;
}

// What put_positions may need for a layer: a gap of 31 bits has five bytes.
size_t most_bytes(std::span<const int32_t> positions) {
  return kLongestNumber + positions.size() * 5;
}

std::vector<int32_t> take_positions(std::string_view& in) {
  std::vector<int32_t> positions(take_number(in));
  int32_t before = -1;
  for (size_t i = 0; i < positions.size();) {
    const uint64_t gap = take_number(in);
    const uint64_t run = gap == 0 ? take_number(in) : 1;
    if (gap > 1) before += static_cast<int32_t>(gap - 1);
    for (uint64_t k = 0; k < run; ++k) positions[i++] = ++before;
  }
  return positions;
}

// What a request costs besides its ids and positions, roughly: the table's node, the vectors.
constexpr size_t kRequestBytes = 512;
constexpr size_t kTokenBytes = sizeof(int32_t);
// A block's heap node and its two counters.
constexpr size_t kBlockBytes = 96;

}  // namespace

struct SelectionStore::Impl {
  // Blocks and prompts are shared and never change: a reader takes pointers under the mutex and
  // unpacks without it, so the engine thread waits for no reader.
  struct Kept {
    std::shared_ptr<const std::vector<int32_t>> prompt;
    std::vector<int32_t> generated;
    std::vector<int64_t> drafted;                            // numbers of generated tokens
    std::vector<std::shared_ptr<const std::string>> blocks;  // of the first generated tokens
    int layers = 0;
    size_t bytes = 0;
    bool full = false;  // a token did not fit: none after it is kept
  };

  size_t max_bytes;
  std::mutex packing;         // guards `scratch`
  std::vector<char> scratch;  // as large as the largest selection so far needs
  mutable std::mutex mutex;   // guards what follows
  std::unordered_map<std::string, Kept> requests;
  std::deque<std::string> order;  // the oldest first
  size_t bytes = 0;

  std::shared_ptr<const std::string> pack(const Selection& selection) {
    size_t most = kLongestNumber;
    for (const auto& layer : selection.layers) most += most_bytes(layer);
    const std::lock_guard lock(packing);
    if (scratch.size() < most) scratch.resize(most);
    char* out = put_number(scratch.data(), selection.layers.size());
    for (const auto& layer : selection.layers) out = put_positions(out, layer);
    return std::make_shared<const std::string>(scratch.data(), out);
  }

  void drop(const std::string& id) {
    const auto it = requests.find(id);
    bytes -= it->second.bytes;
    requests.erase(it);
  }

  // Drops requests older than `id` until `more` bytes fit; false if they cannot. A request never
  // pushes out a newer one: what is asked for most are the last ones.
  bool make_room(size_t more, const std::string& id) {
    while (bytes + more > max_bytes && !order.empty() && order.front() != id) {
      drop(order.front());
      order.pop_front();
    }
    return bytes + more <= max_bytes;
  }

  const Kept* find(const std::string& id) const {
    const auto it = requests.find(id);
    return it == requests.end() ? nullptr : &it->second;
  }
};

SelectionStore::SelectionStore(size_t max_bytes) : impl_(std::make_unique<Impl>()) {
  impl_->max_bytes = max_bytes;
}
SelectionStore::~SelectionStore() = default;

void SelectionStore::begin(const std::string& id, std::vector<int32_t> prompt) {
  Impl::Kept kept;
  kept.bytes = kRequestBytes + id.size() * 2 + prompt.size() * kTokenBytes;
  kept.prompt = std::make_shared<const std::vector<int32_t>>(std::move(prompt));
  const std::lock_guard lock(impl_->mutex);
  if (impl_->requests.contains(id)) {
    impl_->drop(id);
    std::erase(impl_->order, id);
  }
  if (!impl_->make_room(kept.bytes, id)) return;
  impl_->bytes += kept.bytes;
  impl_->requests.emplace(id, std::move(kept));
  impl_->order.push_back(id);
}

void SelectionStore::forget(const std::string& id) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->requests.contains(id)) return;
  impl_->drop(id);
  std::erase(impl_->order, id);
}

void SelectionStore::append(const std::string& id, int32_t token, const Selection& selection,
                            bool drafted) {
  auto block = impl_->pack(selection);
  const size_t block_bytes = kBlockBytes + block->capacity();

  const std::lock_guard lock(impl_->mutex);
  const auto it = impl_->requests.find(id);
  if (it == impl_->requests.end()) return;
  Impl::Kept& kept = it->second;
  const size_t token_bytes = kTokenBytes + (drafted ? sizeof(int64_t) : 0);
  if (!impl_->make_room(token_bytes, id)) return;
  if (drafted) kept.drafted.push_back(static_cast<int64_t>(kept.generated.size()));
  kept.generated.push_back(token);
  kept.bytes += token_bytes;
  impl_->bytes += token_bytes;
  if (kept.full || !impl_->make_room(block_bytes, id)) {
    kept.full = true;
    return;
  }
  kept.layers = static_cast<int>(selection.layers.size());
  kept.blocks.push_back(std::move(block));
  kept.bytes += block_bytes;
  impl_->bytes += block_bytes;
}

bool SelectionStore::find(const std::string& id, Text& text) const {
  std::shared_ptr<const std::vector<int32_t>> prompt;
  std::vector<int32_t> generated;
  {
    const std::lock_guard lock(impl_->mutex);
    const Impl::Kept* kept = impl_->find(id);
    if (kept == nullptr) return false;
    prompt = kept->prompt;
    generated = kept->generated;
    text.drafted = kept->drafted;
    text.kept = static_cast<int64_t>(kept->blocks.size());
    text.layers = kept->layers;
  }
  text.prompt = static_cast<int64_t>(prompt->size());
  text.ids = *prompt;
  text.ids.insert(text.ids.end(), generated.begin(), generated.end());
  return true;
}

bool SelectionStore::find(const std::string& id, int64_t token,
                          std::vector<std::vector<int32_t>>& layers) const {
  std::shared_ptr<const std::string> block;
  {
    const std::lock_guard lock(impl_->mutex);
    const Impl::Kept* kept = impl_->find(id);
    if (kept == nullptr || token < 0 || token >= static_cast<int64_t>(kept->blocks.size())) {
      return false;
    }
    block = kept->blocks[static_cast<size_t>(token)];
  }
  std::string_view rest = *block;
  layers.resize(take_number(rest));
  for (auto& layer : layers) layer = take_positions(rest);
  return true;
}

}  // namespace fathom::server
