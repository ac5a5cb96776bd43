#include "runtime/prefixes.h"

namespace fathom {

Prefixes::Prefixes(PageAllocator& pages, bool on) : on_(on), cache_(pages) {}

PrefixQuery Prefixes::query(PrefixState& state, std::span<const int32_t> ids) {
  extend_keys(state.keys, root_, ids);
  return {ids, std::span<const PageKey>(state.keys).first(ids.size() / kPageRows)};
}

PrefixTree::Found Prefixes::find(PrefixState& state, std::span<const int32_t> ids) {
  if (!on_) return {};
  return cache_.find(query(state, ids));
}

std::vector<int32_t> Prefixes::hold(PrefixState& state, std::span<const int32_t> ids) {
  if (!on_) return {};
  std::vector<int32_t> held = cache_.hold(query(state, ids));
  state.kept = held.size();
  return held;
}

void Prefixes::keep(PrefixState& state, std::span<const int32_t> ids, std::span<int32_t> pages) {
  if (!on_ || ids.size() / kPageRows <= state.kept) return;
  const PrefixQuery q = query(state, ids);
  cache_.insert(q, pages.first(q.keys.size()));
  state.kept = q.keys.size();
}

}  // namespace fathom
