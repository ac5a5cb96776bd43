#include "cache/prefixes.h"

#include <algorithm>

namespace fathom {
namespace {

// How long an engine without work waits for a disk that takes no page.
constexpr std::chrono::seconds kWritePatience{5};
// The limit of texts that wait to be stored, as a multiple of the cache's pages. Only their tokens
// are held, not their rows.
constexpr size_t kMostUnstored = 4;

}  // namespace

Prefixes::Prefixes(PageAllocator& pages, bool on, PageKey root)
    : on_(on), root_(root), pages_(pages), tree_(pages) {}

void Prefixes::use_disk(const PrefixStoreOptions& options, PageRows& rows,
                        std::chrono::milliseconds patience) {
  FATHOM_CHECK(on_, "a cache folder for an engine that keeps nothing");
  rows_ = &rows;
  patience_ = patience;
  store_ = std::make_unique<PrefixStore>(options);
}

PrefixQuery Prefixes::query(PrefixState& state, std::span<const int32_t> ids) {
  extend_keys(state.keys, root_, ids);
  return {ids, std::span<const PageKey>(state.keys).first(ids.size() / kPageRows)};
}

PrefixTree::Found Prefixes::find(PrefixState& state, std::span<const int32_t> ids) {
  if (!on_) return {};
  PrefixTree::Found found = tree_.find(query(state, ids));
  pages_looked_up_ += found.pages;
  return found;
}

std::vector<int32_t> Prefixes::hold(PrefixState& state, std::span<const int32_t> ids) {
  if (!on_) return {};
  std::vector<int32_t> held = tree_.hold(query(state, ids));
  state.kept = held.size();
  state.complete = static_cast<size_t>(tree_.complete_pages(held));
  state.verified = 0;
  state.fetch.reset();
  return held;
}

void Prefixes::keep(PrefixState& state, std::span<const int32_t> ids, std::span<int32_t> pages,
                    bool verified, int64_t complete) {
  if (!on_) return;
  const size_t whole = ids.size() / kPageRows;
  const auto with_all = static_cast<size_t>(complete / kPageRows);
  const bool more = whole > state.kept || with_all > state.complete;
  if (!more && !(verified && state.verified < whole)) return;
  const PrefixQuery q = query(state, ids);
  if (more) {
    state.kept = std::max(state.kept, whole);
    state.complete = with_all;
    tree_.insert(q, pages.first(whole), with_all);
  }
  if (!verified) return;
  state.verified = whole;
  tree_.mark_verified(q);
  if (store_) queue_for_disk(state, q);
}

void Prefixes::discard(PrefixState& state, std::span<const int32_t> ids) {
  if (!on_) return;
  const std::vector<PageKey> dropped = tree_.drop_unverified(query(state, ids));
  if (store_)
    for (PageKey key : dropped) store_->remove(key);
}

// Pages that were found in memory are queued, too: the disk may not have kept up when they were
// new.
void Prefixes::queue_for_disk(PrefixState& state, const PrefixQuery& q) {
  size_t next = state.queued;
  state.queued = q.keys.size();
  while (next < q.keys.size() && store_->contains(q.keys[next])) ++next;
  if (next == q.keys.size()) return;
  if (unstored_.empty()) last_stored_ = Clock::now();
  const auto tokens = static_cast<int64_t>(q.keys.size()) * kPageRows;
  unstored_.push_back(
      {{q.ids.begin(), q.ids.begin() + tokens}, {q.keys.begin(), q.keys.end()}, next});
  unstored_pages_ += q.keys.size();
  while (unstored_.size() > 1 &&
         unstored_pages_ > kMostUnstored * static_cast<size_t>(pages_.size())) {
    store_->count_skipped(static_cast<int64_t>(unstored_[0].keys.size() - unstored_[0].next));
    drop_oldest_unstored();
  }
}

void Prefixes::drop_oldest_unstored() {
  unstored_pages_ -= unstored_.front().keys.size();
  unstored_.pop_front();
}

// In order of the text: a reader stops at the first page that is missing.
void Prefixes::store_some() {
  while (!unstored_.empty() && store_next(unstored_.front())) drop_oldest_unstored();
}

// False when the store has no room for the next page.
bool Prefixes::store_next(Unstored& text) {
  if (!store_->has_room()) return false;  // before the text is looked up
  const PrefixQuery q{text.ids, text.keys};
  std::vector<int32_t> pages = tree_.find(q).path;  // those that are still kept
  pages.resize(static_cast<size_t>(tree_.complete_pages(pages)));
  for (; text.next < pages.size(); ++text.next) {
    const size_t i = text.next;
    PageId id;
    id.root = root_;
    id.before = i == 0 ? root_ : q.keys[i - 1];
    id.key = q.keys[i];
    const std::span<const int32_t> ids = q.page_ids(i);
    std::copy(ids.begin(), ids.end(), id.ids.begin());
    if (!store_->offer(id, static_cast<int64_t>(i),
                       [&](std::byte* to) { rows_->read_page(pages[i], to); }))
      return false;
    last_stored_ = Clock::now();
  }
  return true;
}

bool Prefixes::store_rest() {
  if (!store_) return false;
  store_some();
  if (unstored_.empty()) return false;
  // Short, as in wait_for_disk().
  if (!store_->wait_for_room(std::chrono::milliseconds(5)) &&
      Clock::now() - last_stored_ > kWritePatience)
    store_no_more();
  return !unstored_.empty();
}

void Prefixes::store_no_more() {
  while (!unstored_.empty()) drop_oldest_unstored();
}

bool Prefixes::awaits_disk(PrefixState& state, std::span<const int32_t> ids) {
  if (!store_) return false;
  if (!state.asked_disk) {
    state.asked_disk = true;
    if (!may_ask_disk()) return false;
    const PrefixQuery q = query(state, ids);
    const PrefixTree::Found found = tree_.find(q);
    const auto first = static_cast<size_t>(found.pages);
    // No more pages than there is room for beside those that they continue.
    const auto room = static_cast<size_t>(pages_.free_pages() - found.idle);
    size_t end = first;
    while (end < q.keys.size() && end - first < room && store_->contains(q.keys[end])) ++end;
    if (end == first) return false;
    state.fetch = store_->fetch(root_, ids, q.keys.first(end), first);
    state.asked = Clock::now();
    loading_.push_back({state.fetch, first});
  }
  if (state.fetch && state.fetch->over()) state.fetch.reset();
  // Requests are served one after the other, so a page read for any of them shows that the disk
  // works.
  if (state.fetch && Clock::now() - std::max(state.asked, last_loaded_) > patience_) {
    given_up_ = true;
    state.fetch->stop();
    state.fetch.reset();
  }
  return state.fetch != nullptr;
}

// False while a read hangs that a request has stopped waiting for: others would wait behind it in
// vain.
bool Prefixes::may_ask_disk() {
  given_up_ = given_up_ && store_->is_reading();
  return !given_up_;
}

void Prefixes::take_loaded() {
  std::erase_if(loading_, [&](Loading& l) {
    const std::shared_ptr<PageFetch> fetch = l.fetch.lock();
    if (!fetch || fetch->over()) return true;
    const std::vector<std::byte*> images = fetch->take_ready();
    if (!images.empty()) last_loaded_ = Clock::now();
    const bool all_taken = images.empty() || take_images(*fetch, l.next, images);
    for (std::byte* image : images) fetch->give(image);
    if (!all_taken) fetch->stop();
    return !all_taken;
  });
}

// False when further pages are of no use: the pages that they continue were evicted, or there is no
// room.
bool Prefixes::take_images(PageFetch& fetch, size_t& next, std::span<std::byte* const> images) {
  PrefixQuery q{fetch.ids, fetch.keys};
  // The pages before are held meanwhile, so that taking a page does not evict one of them.
  std::vector<int32_t> held = tree_.hold(q);
  // None is a continuation of pages that lack rows, which it has itself.
  const bool complete = tree_.complete_pages(held) == static_cast<int64_t>(held.size());
  bool all_taken = complete && held.size() >= next;
  for (size_t i = 0; all_taken && i < images.size(); ++i, ++next) {
    if (next < held.size()) continue;  // computed by a request in the meantime
    all_taken = pages_.free_pages() > 0;
    if (!all_taken) break;
    held.push_back(pages_.take());
    rows_->write_page(held.back(), payload_of(images[i]));
  }
  q.keys = q.keys.first(held.size());
  tree_.insert(q, held, complete ? held.size() : 0);
  // The last page first: it is then evicted first.
  for (size_t i = held.size(); i-- > 0;) pages_.release(held[i]);
  return all_taken;
}

void Prefixes::wait_for_disk() {
  // Briefly: new and cancelled requests are noticed only afterwards.
  store_->wait_for_news(std::chrono::milliseconds(5));
}

}  // namespace fathom
