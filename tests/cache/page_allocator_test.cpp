#include "cache/page_allocator.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>

#include "cache/kv_pool.h"

namespace fathom {
namespace {

TEST(PageAllocator, GivesEveryPageOnceAndTakesItBack) {
  PageAllocator pages(5);
  std::set<int32_t> taken;
  for (int i = 0; i < 5; ++i) taken.insert(pages.take());
  EXPECT_EQ(taken, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pages.free_pages(), 0);
  EXPECT_DEATH(pages.take(), "no free page of 5");
  for (int32_t p : taken) pages.release(p);
  EXPECT_EQ(pages.free_pages(), 5);
  pages.check_integrity();
}

TEST(PageAllocator, SharedPageIsFreeAfterItsLastHolder) {
  PageAllocator pages(2);
  int32_t p = pages.take();
  pages.share(p);
  pages.release(p);
  EXPECT_EQ(pages.holders(p), 1);
  EXPECT_EQ(pages.free_pages(), 1);
  pages.release(p);
  EXPECT_EQ(pages.free_pages(), 2);
  EXPECT_DEATH(pages.release(p), "released while free");
  EXPECT_DEATH(pages.share(p), "shared while free");
  EXPECT_DEATH(pages.release(2), "page 2 of 2");
  EXPECT_DEATH(pages.release(-1), "page -1 of 2");
}

// Gives up what it was told of first.
struct Keeper final : PageKeeper {
  std::vector<int32_t> idle;
  void page_idle(int32_t page) override { idle.push_back(page); }
  void page_held(int32_t page) override { std::erase(idle, page); }
  int32_t give_up_page() override {
    const int32_t page = idle.front();
    idle.erase(idle.begin());
    return page;
  }
};

TEST(PageAllocator, AKeptPageIsFreeAndGivenUpLast) {
  PageAllocator pages(3);
  Keeper keeper;
  pages.set_keeper(&keeper);
  const int32_t a = pages.take(), b = pages.take();
  pages.keep(a);
  EXPECT_DEATH(pages.keep(a), "kept already");
  EXPECT_DEATH(pages.keep(2), "not to be kept");  // nobody holds it
  EXPECT_DEATH(pages.drop(b), "not kept");
  pages.release(a);
  EXPECT_EQ(pages.free_pages(), 2);
  EXPECT_EQ(pages.kept_pages(), 1);
  EXPECT_TRUE(pages.idle(a));
  pages.share(a);  // found again
  EXPECT_FALSE(pages.idle(a));
  EXPECT_EQ(pages.free_pages(), 1);
  pages.release(a);
  EXPECT_EQ(pages.take(), 2);  // the free one
  EXPECT_EQ(pages.take(), a);  // and then the kept one
  EXPECT_EQ(pages.kept_pages(), 0);
  EXPECT_DEATH(pages.take(), "no free page of 3");
  pages.release(a);
  EXPECT_FALSE(pages.idle(a));
  pages.check_integrity();
}

TEST(PageAllocator, KeepsItsBooksUnderRandomUse) {
  std::mt19937 random(7);
  PageAllocator pages(37);
  std::vector<int32_t> held;  // one entry per holder
  for (int step = 0; step < 5000; ++step) {
    switch (random() % 3) {
      case 0:
        if (pages.free_pages() > 0) held.push_back(pages.take());
        break;
      case 1:
        if (!held.empty()) {
          int32_t p = held[random() % held.size()];
          pages.share(p);
          held.push_back(p);
        }
        break;
      default:
        if (!held.empty()) {
          std::swap(held[random() % held.size()], held.back());
          pages.release(held.back());
          held.pop_back();
        }
    }
    pages.check_integrity();
    ASSERT_EQ(pages.used_pages(), static_cast<int>(std::set(held.begin(), held.end()).size()));
  }
}

TEST(KvPool, LaysLayersApartInEveryFormat) {
  for (KvFormat latent : {KvFormat::f32, KvFormat::bf16, KvFormat::fp8})
    for (KvFormat index : {KvFormat::f32, KvFormat::bf16, KvFormat::fp8}) {
      KvShape s{3, 512, 64, 128, latent, index, true};
      KvPool pool(s, 5);
      ASSERT_EQ(pool.layers().size(), 3u);
      EXPECT_GE(pool.bytes(), 5 * s.bytes_per_page());
      const std::byte* end = nullptr;
      for (const KvView& v : pool.layers()) {
        EXPECT_EQ(reinterpret_cast<uintptr_t>(v.latent) % 64, 0u);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(v.index) % 64, 0u);
        EXPECT_GE(v.latent, end);
        EXPECT_GE(v.index, v.latent_row(5 * kPageRows));
        end = v.index_page(5);
        // First and last byte of both arrays are ours to write.
        *v.latent = *(v.latent_row(5 * kPageRows) - 1) = std::byte{1};
        *v.index = *(v.index_page(5) - 1) = std::byte{2};
      }
    }
  EXPECT_EQ((KvShape{61, 512, 64, 128, KvFormat::fp8, KvFormat::fp8, true}.bytes_per_token()),
            61 * 788);
}

// A page as one piece holds every row of its tokens, whatever lies around it.
TEST(KvPool, APageGoesOutAndComesBackWhole) {
  for (int index_dim : {128, 0}) {
    const KvShape s{3, 512, 64, index_dim, KvFormat::fp8, KvFormat::bf16, true};
    KvPool from(s, 5), to(s, 7);
    int value = 0;
    for (const KvView& v : from.layers())
      for (int64_t row = 0; row < 5 * kPageRows; ++row, ++value) {
        std::memset(v.latent_row(row), value % 251, static_cast<size_t>(v.latent_stride));
        if (v.index)
          std::memset(v.index_row(row), value % 241, static_cast<size_t>(v.index_stride));
      }
    std::vector<std::byte> bytes(static_cast<size_t>(s.bytes_per_page()));
    from.read_page(4, bytes.data());
    to.write_page(2, bytes.data());
    for (size_t layer = 0; layer < 3; ++layer) {
      const KvView &a = from.layers()[layer], &b = to.layers()[layer];
      EXPECT_EQ(std::memcmp(a.latent_row(4 * kPageRows), b.latent_row(2 * kPageRows),
                            static_cast<size_t>(kPageRows * a.latent_stride)),
                0);
      EXPECT_EQ(*b.latent_row(2 * kPageRows - 1), std::byte{0});
      EXPECT_EQ(*b.latent_row(3 * kPageRows), std::byte{0});
      if (!a.index) continue;
      EXPECT_EQ(std::memcmp(a.index_page(4), b.index_page(2),
                            static_cast<size_t>(kPageRows * a.index_stride)),
                0);
      EXPECT_EQ(*(b.index_page(2) - 1), std::byte{0});
      EXPECT_EQ(*b.index_page(3), std::byte{0});
    }
    EXPECT_DEATH(from.read_page(5, bytes.data()), "page 5 of 5");
  }
}

TEST(KvPool, HasNoIndexRowsWithoutAnIndexer) {
  KvPool pool(KvShape{1, 512, 64, 0, KvFormat::bf16, KvFormat::bf16, false}, 1);
  EXPECT_EQ(pool.layers()[0].index, nullptr);
  EXPECT_EQ(pool.shape().bytes_per_token(), 1152);
}

// 100,000 tokens of 61 layers in f32 lie past 2^32 bytes. Untouched, they cost nothing; where the
// machine refuses the address space, it must say so.
TEST(KvPool, AddressesPast32Bits) {
  KvShape s{61, 512, 64, 128, KvFormat::f32, KvFormat::f32, true};
  KvPool pool(s, 512);
  const KvView& last = pool.layers().back();
  EXPECT_GT(last.index_page(512) - pool.layers()[0].latent, int64_t{1} << 32);
  *last.index_row(512 * kPageRows - 1) = std::byte{1};
}

}  // namespace
}  // namespace fathom
