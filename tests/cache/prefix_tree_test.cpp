#include "cache/prefix_tree.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "cache/kv_pool.h"
#include "cache/prefixes.h"

namespace fathom {
namespace {

std::vector<int32_t> tokens(int n, int32_t from = 0) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) ids[static_cast<size_t>(i)] = from + i;
  return ids;
}

// A cache with as much of an engine as it needs: texts are computed into pages and let go.
struct Rig {
  explicit Rig(int n) : pages(n), cache(pages) {}

  std::vector<PageKey> keys(const std::vector<int32_t>& ids) const {
    std::vector<PageKey> k;
    extend_keys(k, {}, ids);
    return k;
  }
  std::vector<int32_t> hold(const std::vector<int32_t>& ids) {
    return cache.hold({ids, keys(ids)});
  }
  PrefixTree::Found find(const std::vector<int32_t>& ids) { return cache.find({ids, keys(ids)}); }
  // What an engine does with a prompt; the pages that were found come first.
  std::vector<int32_t> compute(const std::vector<int32_t>& ids) {
    std::vector<int32_t> held = hold(ids);
    while (static_cast<int64_t>(held.size()) < pages_for(static_cast<int64_t>(ids.size())))
      held.push_back(pages.take());
    EXPECT_TRUE(cache.insert({ids, keys(ids)}, held, held.size()));
    pages.check_integrity();
    return held;
  }
  void release(const std::vector<int32_t>& held) {
    for (int32_t page : held) pages.release(page);
    pages.check_integrity();
  }
  std::vector<int32_t> compute_and_release(const std::vector<int32_t>& ids) {
    std::vector<int32_t> held = compute(ids);
    release(held);
    return held;
  }

  PageAllocator pages;
  PrefixTree cache;
};

TEST(PageKey, FollowsEveryTokenAndItsPlace) {
  std::set<std::pair<uint64_t, uint64_t>> seen;
  auto add = [&](PageKey k) { EXPECT_TRUE(seen.insert({k.a, k.b}).second); };
  std::vector<int32_t> ids(kPageRows, 0);
  add(page_key({}, ids));
  add(page_key({1, 0}, ids));
  add(page_key({0, 1}, ids));
  add(page_key({}, std::span(ids).first(63)));
  for (size_t i = 0; i < ids.size(); ++i)
    for (int bit = 0; bit < 31; ++bit) {
      std::vector<int32_t> other = ids;
      other[i] ^= 1 << bit;
      add(page_key({}, other));
    }
  std::mt19937 random(1);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % 4096);
  for (size_t i = 1; i < ids.size(); ++i) {
    std::vector<int32_t> other = ids;
    std::swap(other[0], other[i]);
    if (other != ids) add(page_key({}, other));
  }
}

TEST(PageKey, ADigestSeesEveryBitAndTheLength) {
  std::mt19937 random(2);
  for (size_t n : {0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 200}) {
    std::vector<uint8_t> bytes(n);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
    const PageKey whole = digest(bytes.data(), n);
    EXPECT_EQ(whole, digest(bytes.data(), n));
    for (size_t bit = 0; bit < 8 * n; ++bit) {
      bytes[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
      const PageKey flipped = digest(bytes.data(), n);
      EXPECT_NE(flipped.a, whole.a) << n << " bytes, bit " << bit;
      EXPECT_NE(flipped.b, whole.b) << n << " bytes, bit " << bit;
      bytes[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    }
    bytes.push_back(0);
    EXPECT_NE(digest(bytes.data(), n + 1), whole);
  }
}

TEST(PrefixTree, SharesWholePages) {
  Rig rig(10);
  const std::vector<int32_t> mine = rig.compute_and_release(tokens(150));
  EXPECT_EQ(rig.pages.used_pages(), 0);  // two whole pages are kept, and count as free
  EXPECT_EQ(rig.pages.kept_pages(), 2);
  EXPECT_EQ(rig.hold(tokens(63)).size(), 0u);
  EXPECT_EQ(rig.hold(tokens(64)), (std::vector<int32_t>{mine[0]}));
  EXPECT_EQ(rig.hold(tokens(127)), (std::vector<int32_t>{mine[0]}));
  EXPECT_EQ(rig.find(tokens(400)).pages, 2);
  EXPECT_EQ(rig.find(tokens(400)).idle, 1);  // the first is held by now
  EXPECT_EQ(rig.hold(tokens(400)), (std::vector<int32_t>{mine[0], mine[1]}));
  EXPECT_EQ(rig.hold(tokens(400, 1)).size(), 0u);
  EXPECT_EQ(rig.hold({}).size(), 0u);
  EXPECT_EQ(rig.pages.holders(mine[0]), 3);
  EXPECT_EQ(rig.pages.used_pages(), 2);
  std::vector<int32_t> forked = tokens(200);
  forked[100] = 9999;
  EXPECT_EQ(rig.hold(forked), (std::vector<int32_t>{mine[0]}));
  rig.pages.check_integrity();
}

TEST(PrefixTree, GivesUpLeavesFirstAndTheLongestUnused) {
  Rig rig(6);
  const auto a = rig.compute_and_release(tokens(192));       // a0 a1 a2
  const auto b = rig.compute_and_release(tokens(128, 500));  // b0 b1
  rig.release(rig.hold(tokens(64)));                         // a0 again
  EXPECT_NE(rig.pages.take(), a[2]);                         // the free page
  EXPECT_EQ(rig.pages.take(), a[2]);
  EXPECT_EQ(rig.pages.take(), a[1]);
  EXPECT_EQ(rig.find(tokens(192)).pages, 1);
  EXPECT_EQ(rig.pages.take(), b[1]);
  EXPECT_EQ(rig.pages.take(), b[0]);
  EXPECT_EQ(rig.pages.take(), a[0]);
  EXPECT_EQ(rig.cache.size(), 0);
  EXPECT_EQ(rig.pages.free_pages(), 0);
}

TEST(PrefixTree, APageInFrontOfAHeldOneStays) {
  Rig rig(4);
  const auto held = rig.compute(tokens(128));
  rig.compute_and_release(tokens(64, 500));
  rig.pages.take();
  rig.pages.take();
  EXPECT_EQ(rig.pages.free_pages(), 0);
  EXPECT_EQ(rig.find(tokens(128)).pages, 2);
  EXPECT_EQ(rig.find(tokens(64, 500)).pages, 0);
}

// Two requests with one beginning that are computed side by side end up on the same pages.
TEST(PrefixTree, ASecondCopyIsFreed) {
  Rig rig(10);
  std::vector<int32_t> one = {rig.pages.take(), rig.pages.take()};
  std::vector<int32_t> two = {rig.pages.take(), rig.pages.take(), rig.pages.take()};
  const std::vector<int32_t> longer = tokens(192);
  EXPECT_TRUE(rig.cache.insert({tokens(128), rig.keys(tokens(128))}, one, 2));
  EXPECT_TRUE(rig.cache.insert({longer, rig.keys(longer)}, two, 3));
  EXPECT_EQ(two[0], one[0]);
  EXPECT_EQ(two[1], one[1]);
  EXPECT_EQ(rig.pages.holders(one[1]), 2);
  EXPECT_EQ(rig.pages.used_pages(), 3);
  rig.release(one);
  // The pages in front of one that is held are held: nothing here is idle.
  EXPECT_EQ(rig.pages.free_pages(), 7);
  rig.release(two);
  EXPECT_EQ(rig.pages.free_pages(), 10);
  EXPECT_EQ(rig.cache.size(), 3);
}

TEST(PrefixTree, TextsThatShareAKeyAreToldApart) {
  Rig rig(10);
  const std::vector<int32_t> mine = tokens(128), other = tokens(128, 700);
  const std::vector<PageKey> same = rig.keys(mine);
  std::vector<int32_t> a = {rig.pages.take(), rig.pages.take()};
  std::vector<int32_t> b = {rig.pages.take(), rig.pages.take()};
  EXPECT_TRUE(rig.cache.insert({mine, same}, a, 2));
  EXPECT_EQ(rig.cache.find({other, same}).pages, 0);
  EXPECT_FALSE(rig.cache.insert({other, same}, b, 2));
  // The second page alone differs in what is before it.
  std::vector<int32_t> half = other;
  std::copy(mine.begin() + 64, mine.end(), half.begin() + 64);
  std::vector<PageKey> mixed = {rig.keys(half)[0], same[1]};
  EXPECT_FALSE(rig.cache.insert({half, mixed}, b, 2));
  EXPECT_EQ(rig.cache.find({half, mixed}).pages, 1);
  EXPECT_EQ(rig.cache.find({mine, same}).pages, 2);
  rig.release(a);
  rig.release(b);
}

TEST(PrefixTree, ClearFreesWhatIsIdleAndForgetsWhatIsHeld) {
  Rig rig(4);
  const auto held = rig.compute(tokens(64));
  rig.compute_and_release(tokens(64, 500));
  rig.cache.clear();
  rig.pages.check_integrity();
  EXPECT_EQ(rig.pages.kept_pages(), 0);
  EXPECT_EQ(rig.pages.used_pages(), 1);
  rig.release(held);
  EXPECT_EQ(rig.pages.free_pages(), 4);
}

// Random texts with common beginnings, held and let go in any order, against a map of what each
// page was filled with: what is found is always the text that was asked for.
TEST(PrefixTree, NeverHandsOutAnotherTextsPage) {
  std::mt19937 random(11);
  Rig rig(40);
  std::map<int32_t, std::vector<int32_t>> content;  // page: the text up to its end
  struct Running {
    std::vector<int32_t> ids, pages;
  };
  std::vector<Running> running;
  int64_t found = 0;
  for (int step = 0; step < 4000; ++step) {
    if (running.empty() || (random() % 2 == 0 && running.size() < 5)) {
      Running r;
      for (size_t n = 1 + random() % 6; n > 0; --n)  // each page is one of two: many begin alike
        for (int32_t id : tokens(64, static_cast<int32_t>(random() % 2 * 1000)))
          r.ids.push_back(id);
      const auto f = rig.find(r.ids);
      const int64_t whole = static_cast<int64_t>(r.ids.size()) / kPageRows;
      if (whole - f.pages + f.idle > rig.pages.free_pages()) continue;
      r.pages = rig.hold(r.ids);
      found += static_cast<int64_t>(r.pages.size());
      ASSERT_EQ(static_cast<int64_t>(r.pages.size()), f.pages);
      for (size_t i = 0; i < static_cast<size_t>(whole); ++i) {
        std::vector<int32_t> text(r.ids.begin(), r.ids.begin() + static_cast<int64_t>(i + 1) * 64);
        if (i < r.pages.size()) {
          ASSERT_EQ(content[r.pages[i]], text);
        } else {
          r.pages.push_back(rig.pages.take());
          content[r.pages[i]] = text;
        }
      }
      if (random() % 4) {
        ASSERT_TRUE(rig.cache.insert({r.ids, rig.keys(r.ids)}, r.pages, r.pages.size()));
      }
      running.push_back(std::move(r));
    } else {
      std::swap(running[random() % running.size()], running.back());
      for (int32_t page : running.back().pages) rig.pages.release(page);
      running.pop_back();
    }
    rig.pages.check_integrity();
  }
  EXPECT_GT(found, 1000);
}

// What is behind the verified pages goes, with all that continues it; whoever holds a page keeps
// it.
TEST(PrefixTree, DropsWhatIsNotKnownToBeSound) {
  Rig rig(20);
  auto way = [](int verified, std::initializer_list<int> more) {
    std::vector<int32_t> ids = tokens(verified);
    for (int from : more)
      for (int32_t id : tokens(64, from)) ids.push_back(id);
    return ids;
  };
  const std::vector<int32_t> broken = way(128, {500, 600}), longer = way(128, {500, 600, 700}),
                             beside = way(128, {500, 800}), other = way(128, {900});
  rig.cache.mark_verified({other, rig.keys(other)});  // nothing is kept yet
  rig.compute_and_release(broken);
  rig.compute_and_release(beside);
  rig.compute_and_release(other);
  const std::vector<int32_t> held = rig.compute(longer);
  rig.cache.mark_verified({other, rig.keys(other)});
  EXPECT_EQ(rig.cache.drop_unverified({other, rig.keys(other)}).size(), 0u);
  const std::vector<PageKey> dropped = rig.cache.drop_unverified({broken, rig.keys(broken)});
  EXPECT_EQ(dropped.size(), 4u);
  rig.pages.check_integrity();
  EXPECT_EQ(rig.find(broken).pages, 2);
  EXPECT_EQ(rig.find(longer).pages, 2);
  EXPECT_EQ(rig.find(beside).pages, 2);
  EXPECT_EQ(rig.find(other).pages, 3);
  EXPECT_EQ(rig.pages.used_pages(), 5);
  EXPECT_EQ(rig.cache.drop_unverified({broken, rig.keys(broken)}).size(), 0u);
  rig.release(held);
  EXPECT_EQ(rig.pages.free_pages(), 20);
  EXPECT_EQ(rig.pages.kept_pages(), 3);
  // Every page can still be had.
  std::vector<int32_t> all;
  for (int i = 0; i < 20; ++i) all.push_back(rig.pages.take());
  rig.release(all);
}

// Pages without the MTP block's rows are found like others, until somebody who holds them has
// computed them again.
TEST(Prefixes, SayWhichPagesLackRows) {
  PageAllocator pages(10);
  Prefixes prefixes(pages, true);
  const std::vector<int32_t> ids = tokens(4 * kPageRows);
  PrefixState first, second, third;
  std::vector<int32_t> held, own;
  for (int i = 0; i < 4; ++i) held.push_back(pages.take());
  prefixes.keep(first, ids, held, true, 2 * kPageRows + 5);
  EXPECT_EQ(prefixes.complete_pages(held), 2);
  EXPECT_EQ(prefixes.complete_pages(std::span(held).first(1)), 1);

  // Another text has computed the same with all rows, beside the first: it goes on with its own.
  for (int i = 0; i < 4; ++i) own.push_back(pages.take());
  const int32_t third_page = own[2];
  prefixes.keep(second, ids, own, true, 4 * kPageRows);
  EXPECT_EQ(own[0], held[0]);
  EXPECT_EQ(own[2], third_page);
  EXPECT_EQ(prefixes.complete_pages(held), 2);
  for (int32_t page : own) pages.release(page);

  std::vector<int32_t> shared = prefixes.hold(third, ids);
  EXPECT_EQ(shared, held);
  prefixes.keep(third, std::span(ids).first(3 * kPageRows), shared, true, 3 * kPageRows);
  EXPECT_EQ(prefixes.complete_pages(held), 3);
  prefixes.keep(third, ids, shared, true, 4 * kPageRows);
  EXPECT_EQ(prefixes.complete_pages(held), 4);
  for (int32_t page : shared) pages.release(page);
  for (int32_t page : held) pages.release(page);
  pages.check_integrity();
}

TEST(Prefixes, OffKeepsNothing) {
  PageAllocator pages(4);
  Prefixes off(pages, false);
  PrefixState state;
  const std::vector<int32_t> ids = tokens(130);
  std::vector<int32_t> held = {pages.take(), pages.take(), pages.take()};
  off.keep(state, ids, held, true, 128);
  EXPECT_EQ(pages.kept_pages(), 0);
  EXPECT_EQ(off.find(state, ids).pages, 0);
  EXPECT_TRUE(off.hold(state, ids).empty());
}

}  // namespace
}  // namespace fathom
