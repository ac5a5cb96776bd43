#include "runtime/prefixes.h"

#include <algorithm>

namespace fathom {

Prefixes::Prefixes(PageAllocator& pages, bool on, PageKey root)
    : on_(on), root_(root), pages_(pages), tree_(pages) {}

void Prefixes::use_disk(const PrefixStoreOptions& options, StepRunner& runner) {
  FATHOM_CHECK(on_, "a cache folder for an engine that keeps nothing");
  runner_ = &runner;
  store_ = std::make_unique<PrefixStore>(options);
}

PrefixQuery Prefixes::query(PrefixState& state, std::span<const int32_t> ids) {
  extend_keys(state.keys, root_, ids);
  return {ids, std::span<const PageKey>(state.keys).first(ids.size() / kPageRows)};
}

PrefixTree::Found Prefixes::find(PrefixState& state, std::span<const int32_t> ids) {
  if (!on_) return {};
  return tree_.find(query(state, ids));
}

std::vector<int32_t> Prefixes::hold(PrefixState& state, std::span<const int32_t> ids) {
  if (!on_) return {};
  std::vector<int32_t> held = tree_.hold(query(state, ids));
  state.kept = held.size();
  state.fetch.reset();
  return held;
}

void Prefixes::keep(PrefixState& state, std::span<const int32_t> ids, std::span<int32_t> pages) {
  if (!on_ || ids.size() / kPageRows <= state.kept) return;
  const PrefixQuery q = query(state, ids);
  state.kept = q.keys.size();
  if (tree_.insert(q, pages.first(q.keys.size())) && store_) store(state, q, pages);
}

// Pages that were found in memory are offered too: the disk may not have kept up when they were
// new.
void Prefixes::store(PrefixState& state, const PrefixQuery& q, std::span<const int32_t> pages) {
  for (; state.offered < q.keys.size(); ++state.offered) {
    const size_t i = state.offered;
    if (store_->contains(q.keys[i])) continue;
    PageId id;
    id.root = root_;
    id.before = i == 0 ? root_ : q.keys[i - 1];
    id.key = q.keys[i];
    const std::span<const int32_t> ids = q.page_ids(i);
    std::copy(ids.begin(), ids.end(), id.ids.begin());
    store_->offer(id, static_cast<int64_t>(i),
                  [&](std::byte* to) { runner_->read_page(pages[i], to); });
  }
}

bool Prefixes::awaits_disk(PrefixState& state, std::span<const int32_t> ids) {
  if (!store_) return false;
  if (!state.asked_disk) {
    state.asked_disk = true;
    const PrefixQuery q = query(state, ids);
    const PrefixTree::Found found = tree_.find(q);
    const auto first = static_cast<size_t>(found.pages);
    // No more than there is room for, beside what it continues.
    const auto room = static_cast<size_t>(pages_.free_pages() - found.idle);
    size_t end = first;
    while (end < q.keys.size() && end - first < room && store_->contains(q.keys[end])) ++end;
    if (end == first) return false;
    state.fetch = store_->fetch(root_, ids, q.keys.first(end), first);
    loading_.push_back({state.fetch, first});
  }
  if (state.fetch && state.fetch->over()) state.fetch.reset();
  return state.fetch != nullptr;
}

void Prefixes::take_loaded() {
  std::erase_if(loading_, [&](Loading& l) {
    const std::shared_ptr<PageFetch> fetch = l.fetch.lock();
    if (!fetch || fetch->over()) return true;
    const std::vector<std::byte*> images = fetch->take_ready();
    const bool all_taken = images.empty() || take_images(*fetch, l.next, images);
    for (std::byte* image : images) fetch->give(image);
    if (!all_taken) fetch->stop();
    return !all_taken;
  });
}

// False when there is no use for more: what they continue has been given up, or there is no room.
bool Prefixes::take_images(PageFetch& fetch, size_t& next, std::span<std::byte* const> images) {
  PrefixQuery q{fetch.ids, fetch.keys};
  // While the beginning is held, taking a page cannot give up what this one continues.
  std::vector<int32_t> held = tree_.hold(q);
  bool all_taken = held.size() >= next;
  for (size_t i = 0; all_taken && i < images.size(); ++i, ++next) {
    if (next < held.size()) continue;  // someone has computed it meanwhile
    all_taken = pages_.free_pages() > 0;
    if (!all_taken) break;
    held.push_back(pages_.take());
    runner_->write_page(held.back(), payload_of(images[i]));
  }
  q.keys = q.keys.first(held.size());
  tree_.insert(q, held);
  // The end first: it is the first to go again.
  for (size_t i = held.size(); i-- > 0;) pages_.release(held[i]);
  return all_taken;
}

void Prefixes::wait_for_disk() {
  // Short: requests that come and go meanwhile are heard of afterwards.
  store_->wait_for_news(std::chrono::milliseconds(5));
}

}  // namespace fathom
