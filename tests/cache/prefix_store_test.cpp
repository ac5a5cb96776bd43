#include "cache/prefix_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <random>
#include <set>

#include "base/error.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int64_t kRows = 1000;  // bytes of a page here

std::vector<int32_t> text(size_t pages, int32_t from = 0) {
  std::vector<int32_t> ids(pages * kPageRows);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = from + static_cast<int32_t>(i);
  return ids;
}

const PageKey kRoot{11, 22};

std::vector<PageKey> keys_of(const std::vector<int32_t>& ids) {
  std::vector<PageKey> keys;
  extend_keys(keys, kRoot, ids);
  return keys;
}

PageId id_of(const std::vector<int32_t>& ids, size_t page) {
  const std::vector<PageKey> keys = keys_of(ids);
  PageId id;
  id.root = kRoot;
  id.before = page == 0 ? kRoot : keys[page - 1];
  id.key = keys[page];
  std::copy_n(ids.begin() + static_cast<int64_t>(page) * kPageRows, kPageRows, id.ids.begin());
  return id;
}

// Rows that follow from the page's key.
void fill(std::byte* to, PageKey key) {
  for (int64_t i = 0; i < kRows; ++i) to[i] = static_cast<std::byte>(key.a >> i % 8 * 8);
}

PrefixStoreOptions options(const std::string& dir, int64_t max_bytes = 1 << 20) {
  PrefixStoreOptions o;
  o.dir = dir;
  o.max_bytes = max_bytes;
  o.page_bytes = kRows;
  return o;
}

void put(PrefixStore& store, const std::vector<int32_t>& ids) {
  for (size_t page = 0; page < ids.size() / kPageRows; ++page) {
    const PageId id = id_of(ids, page);
    EXPECT_TRUE(
        store.offer(id, static_cast<int64_t>(page), [&](std::byte* to) { fill(to, id.key); }));
  }
  store.flush();
}

// Pages of `ids` from `first` on that come back, each with its rows.
size_t get(PrefixStore& store, const std::vector<int32_t>& ids, size_t first = 0) {
  const std::vector<PageKey> keys = keys_of(ids);
  auto fetch = store.fetch(kRoot, ids, keys, first);
  size_t pages = 0;
  while (!fetch->over()) {
    for (std::byte* image : fetch->take_ready()) {
      std::vector<std::byte> want(kRows);
      fill(want.data(), keys[first + pages]);
      EXPECT_EQ(std::memcmp(payload_of(image), want.data(), kRows), 0) << "page " << pages;
      fetch->give(image);
      ++pages;
    }
    store.wait_for_news(std::chrono::milliseconds(100));
  }
  return pages;
}

std::set<std::string> names_in(const std::string& dir) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.insert(entry.path().filename());
  return names;
}

int64_t bytes_in(const std::string& dir) {
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(dir))
    bytes += static_cast<int64_t>(entry.file_size());
  return bytes;
}

TEST(PageFile, NamesAreToldApart) {
  const PageKey key{0x0123456789abcdef, 0xfedcba9876543210};
  EXPECT_EQ(page_file_name(key), "fathom-0123456789abcdeffedcba9876543210.page");
  EXPECT_EQ(key_of_name(page_file_name(key)), key);
  const std::string stem = "fathom-0123456789abcdeffedcba9876543210";
  EXPECT_EQ(kind_of_name(stem + ".page"), CacheFile::page);
  EXPECT_EQ(kind_of_name(stem + ".123.tmp"), CacheFile::unfinished);
  for (const std::string& other :
       {std::string(), std::string("fathom-"), std::string("notes.txt"), stem, stem + ".tmp",
        stem + "..tmp", stem + ".x.tmp", stem + ".12", stem + ".page2", stem + "0.page",
        "x" + stem + ".page", std::string("fathom-0123456789ABCDEFfedcba9876543210.page"),
        std::string("fathom-012345.page")})
    EXPECT_EQ(kind_of_name(other), CacheFile::other) << other;
}

TEST(PageFile, EveryFlippedBitAndEveryLengthIsNoticed) {
  const std::vector<int32_t> ids = text(2);
  const PageId id = id_of(ids, 1);
  std::vector<std::byte> image(page_file_bytes(kRows));
  fill(payload_of(image.data()), id.key);
  seal_page_file(image, id);
  EXPECT_EQ(page_file_fault(image, id, kRows), "");
  for (size_t bit = 0; bit < 8 * image.size(); ++bit) {
    image[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    EXPECT_NE(page_file_fault(image, id, kRows), "") << "bit " << bit;
    image[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
  }
  for (size_t n = 0; n < image.size(); ++n)
    EXPECT_NE(page_file_fault(std::span(image).first(n), id, kRows), "") << n << " bytes";
  EXPECT_NE(page_file_fault(image, id_of(ids, 0), kRows), "");
  EXPECT_NE(page_file_fault(image, id, kRows - 1), "");
  PageId other = id;
  other.root.a ^= 1;  // other numerics
  EXPECT_EQ(page_file_fault(image, other, kRows), "another page");
  image.push_back({});
  EXPECT_THAT(page_file_fault(image, id, kRows), HasSubstr("a page has 1384"));
}

// Random bytes, random lengths, and a good file with random parts overwritten.
TEST(PageFile, BelievesNothing) {
  std::mt19937 random(5);
  const PageId id = id_of(text(1), 0);
  std::vector<std::byte> good(page_file_bytes(kRows));
  fill(payload_of(good.data()), id.key);
  seal_page_file(good, id);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::byte> file = good;
    if (round % 3 == 0)
      for (std::byte& b : file) b = static_cast<std::byte>(random());
    else
      for (size_t n = 1 + random() % 20, at = random() % file.size(); n > 0 && at < file.size();
           --n, ++at)
        file[at] = static_cast<std::byte>(random());
    if (round % 3 == 1) file.resize(random() % (2 * file.size()));
    EXPECT_EQ(page_file_fault(file, id, kRows).empty(), file == good);
  }
}

TEST(PrefixStore, KeepsPagesOverARestart) {
  test::TempFolder folder;
  const std::string dir = folder.file("made/when/missing");
  const std::vector<int32_t> ids = text(5);
  {
    PrefixStore store(options(dir));
    EXPECT_FALSE(store.contains(keys_of(ids)[0]));
    EXPECT_EQ(get(store, ids), 0u);
    put(store, ids);
    put(store, ids);  // nothing new
    EXPECT_EQ(store.stats().written, 5);
    EXPECT_EQ(store.stats().files, 5);
    EXPECT_EQ(get(store, ids), 5u);
    EXPECT_EQ(get(store, ids, 3), 2u);
  }
  PrefixStore store(options(dir));
  EXPECT_EQ(store.stats().files, 5);
  EXPECT_EQ(store.stats().bytes, 5 * (kRows + 384));
  EXPECT_EQ(get(store, ids), 5u);
  EXPECT_EQ(get(store, text(6)), 5u);  // up to the first that is not there
  EXPECT_EQ(get(store, text(2, 7)), 0u);
  EXPECT_EQ(names_in(dir).size(), 5u);
}

TEST(PrefixStore, RemovesDamagedFilesAndStoresThemAgain) {
  test::TempFolder folder;
  const std::vector<int32_t> ids = text(3);
  {
    PrefixStore store(options(folder.path()));
    put(store, ids);
  }
  const std::string path = folder.file(page_file_name(keys_of(ids)[1]));
  const std::string good = test::read_file(path);
  std::vector<std::string> bad;
  for (size_t at : {20u, 70u, 200u, 330u, 350u, 380u, 400u, 1383u}) {
    bad.push_back(good);
    bad.back()[at] = static_cast<char>(bad.back()[at] ^ 4);
  }
  bad.push_back(good.substr(0, 500));
  bad.push_back(good + "x");
  bad.push_back(test::read_file(folder.file(page_file_name(keys_of(ids)[2]))));
  for (const std::string& bytes : bad) {
    test::write_file(path, bytes);
    PrefixStoreOptions o = options(folder.path());
    std::string problem;
    o.on_problem = [&](const std::string& text) { problem = text; };
    PrefixStore store(o);
    EXPECT_EQ(get(store, ids), 1u);
    EXPECT_THAT(problem, HasSubstr("removed " + path));
    EXPECT_EQ(store.stats().damaged, 1);
    EXPECT_FALSE(fs::exists(path));
    EXPECT_FALSE(store.contains(keys_of(ids)[1]));
    put(store, ids);
    EXPECT_EQ(get(store, ids), 3u);
  }
  // Those that cannot be of this version go when the folder is opened.
  for (const std::string& bytes : {std::string(), std::string("fathomKV"),
                                   std::string("fathomKV\2\0\0\0", 12), std::string(2000, 'x')}) {
    test::write_file(path, bytes);
    PrefixStore store(options(folder.path()));
    EXPECT_FALSE(fs::exists(path));
    EXPECT_EQ(store.stats().damaged, 1);
    EXPECT_EQ(get(store, ids), 1u);
  }
}

TEST(PrefixStore, LeavesOtherFilesAloneAndCleansUpAfterTheKilled) {
  test::TempFolder folder;
  const std::string stem = page_file_name({1, 2}).substr(0, 39);
  for (const char* name : {"notes.txt", "fathom-1.page"}) test::write_file(folder.file(name), "x");
  fs::create_directory(folder.file(stem + ".page"));
  fs::create_symlink("notes.txt", folder.file(page_file_name({3, 4})));
  const std::string pipe = page_file_name(keys_of(text(1))[0]);
  ASSERT_EQ(mkfifo(folder.file(pipe).c_str(), 0600), 0);
  test::write_file(folder.file(stem + ".1.tmp"), "left behind");
  test::write_file(folder.file(stem + ".2.tmp"), "being written by another process");
  const int other = open(folder.file(stem + ".2.tmp").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(other, LOCK_EX), 0);
  std::set<std::string> before = names_in(folder.path());
  {
    PrefixStore store(options(folder.path(), 3 * (kRows + 384)));
    put(store, text(8, 500));  // over the limit: files are removed
    EXPECT_EQ(get(store, text(1)), 0u);
  }
  close(other);
  before.erase(stem + ".1.tmp");
  for (const std::string& name : before)
    EXPECT_TRUE(names_in(folder.path()).contains(name)) << name;
  EXPECT_FALSE(fs::exists(folder.file(stem + ".1.tmp")));
}

TEST(PrefixStore, StaysBelowItsLimitAndKeepsWhatWasUsedLast) {
  test::TempFolder folder;
  const int64_t file = kRows + 384;
  PrefixStore store(options(folder.path(), 10 * file));
  const std::vector<int32_t> old = text(4), used = text(3, 10000);
  put(store, old);
  put(store, used);
  // Long ago; what is read counts as used now.
  for (const auto& entry : fs::directory_iterator(folder.path()))
    fs::last_write_time(entry.path(), fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_EQ(get(store, used), 3u);
  for (int32_t i = 0; i < 4; ++i) {
    put(store, text(1, 20000 + 1000 * i));
    int64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(folder.path()))
      bytes += static_cast<int64_t>(entry.file_size());
    EXPECT_LE(bytes, 10 * file);
  }
  EXPECT_EQ(get(store, used), 3u);
  EXPECT_LT(get(store, old), 4u);
  EXPECT_EQ(get(store, text(1, 23000)), 1u);
  EXPECT_LE(store.stats().bytes, 10 * file);
}

TEST(PrefixStore, RefusesWhatTheDiskCannotTakeAtOnce) {
  test::TempFolder folder;
  PrefixStoreOptions o = options(folder.path());
  o.staging_bytes = 1;  // two buffers
  PrefixStore store(o);
  const std::vector<int32_t> ids = text(200);
  int64_t taken = 0;
  for (size_t page = 0; page < 200; ++page) {
    const PageId id = id_of(ids, page);
    taken += store.offer(id, 0, [&](std::byte* to) { fill(to, id.key); });
  }
  store.flush();
  EXPECT_EQ(store.stats().written, taken);
  EXPECT_EQ(store.stats().files, taken);
  EXPECT_GE(taken, 2);
}

// Two stores on one folder, as two processes would be: each may write, read and remove anything.
TEST(PrefixStore, TwoMayShareAFolder) {
  test::TempFolder folder;
  const int64_t limit = 12 * (kRows + 384);
  PrefixStore a(options(folder.path(), limit)), b(options(folder.path(), limit));
  auto work = [](PrefixStore& store, unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 60; ++i) {
      const std::vector<int32_t> ids =
          text(1 + random() % 4, 1000 * static_cast<int>(random() % 4));
      if (random() % 2) put(store, ids);
      get(store, ids);  // whatever comes is right
    }
  };
  {
    std::jthread one([&] { work(a, 1); });
    std::jthread two([&] { work(b, 2); });
  }
  EXPECT_EQ(a.stats().damaged + b.stats().damaged, 0);
  EXPECT_EQ(a.stats().failures + b.stats().failures, 0);
  EXPECT_LE(bytes_in(folder.path()), limit);
}

// What another process has written counts, though nobody told this one.
TEST(PrefixStore, TwoKeepOneLimit) {
  test::TempFolder folder;
  const int64_t limit = 12 * (kRows + 384);
  PrefixStore a(options(folder.path(), limit)), b(options(folder.path(), limit));
  put(a, text(8));
  put(b, text(8, 10000));
  EXPECT_LE(bytes_in(folder.path()), limit);
  EXPECT_GT(get(b, text(8, 10000)), 0u);
}

TEST(PrefixStore, RemovesAPageThatIsWrittenOrAboutToBe) {
  test::TempFolder folder;
  const std::vector<int32_t> ids = text(3);
  const std::vector<PageKey> keys = keys_of(ids);
  PrefixStore store(options(folder.path()));
  put(store, ids);
  const PageId more = id_of(text(1, 5000), 0);
  ASSERT_TRUE(store.offer(more, 0, [&](std::byte* to) { fill(to, more.key); }));
  store.remove(more.key);
  store.remove(keys[1]);
  store.remove({1, 2});  // of no page
  EXPECT_FALSE(store.contains(keys[1]));
  store.flush();
  EXPECT_FALSE(store.contains(keys[1]));
  EXPECT_FALSE(store.contains(more.key));
  EXPECT_EQ(names_in(folder.path()).size(), 2u);
  EXPECT_EQ(store.stats().bytes, bytes_in(folder.path()));
  put(store, ids);
  EXPECT_EQ(get(store, ids), 3u);
}

TEST(PrefixStore, AFetchMayBeLetGoOf) {
  test::TempFolder folder;
  PrefixStoreOptions o = options(folder.path());
  {
    PrefixStore store(o);
    put(store, text(50));
  }
  o.staging_bytes = 1;  // the reader waits for buffers that the abandoned ones hold
  PrefixStore store(o);
  const std::vector<int32_t> ids = text(50);
  auto stopped = store.fetch(kRoot, ids, keys_of(ids), 0);
  for (int i = 0; i < 3; ++i) store.fetch(kRoot, ids, keys_of(ids), 0);
  stopped->stop();
  EXPECT_TRUE(stopped->over());
  EXPECT_EQ(get(store, ids), 50u);
}

// Killed in the middle of writing: what has its name is whole, and the rest goes at the next start.
TEST(PrefixStore, AKilledRunLeavesOnlyWholePages) {
  test::TempFolder folder;
  const std::vector<int32_t> ids = text(300);
  auto write_and_die = [&] {
    PrefixStore store(options(folder.path()));
    for (size_t page = 0; page < 300; ++page) {
      const PageId id = id_of(ids, page);
      store.offer(id, 0, [&](std::byte* to) { fill(to, id.key); });
      if (store.stats().written == 5) kill(getpid(), SIGKILL);
    }
    while (store.stats().written < 5) std::this_thread::yield();
    kill(getpid(), SIGKILL);
  };
  EXPECT_EXIT(write_and_die(), testing::KilledBySignal(SIGKILL), "");
  EXPECT_GE(names_in(folder.path()).size(), 5u);
  PrefixStore store(options(folder.path()));
  const auto names = names_in(folder.path());
  for (const std::string& name : names) EXPECT_EQ(kind_of_name(name), CacheFile::page) << name;
  EXPECT_EQ(get(store, ids), names.size());
  EXPECT_EQ(store.stats().damaged, 0);
}

TEST(PrefixStore, SaysWhatIsWrongWithTheFolder) {
  test::TempFolder folder;
  auto message = [](const PrefixStoreOptions& o) {
    try {
      PrefixStore store(o);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("it works");
  };
  EXPECT_THAT(message(options(folder.path(), kRows)), HasSubstr("one page of 64 tokens takes"));
  test::write_file(folder.file("file"), "");
  EXPECT_THAT(message(options(folder.file("file/below"))),
              HasSubstr("cannot make the cache folder"));
  EXPECT_THAT(message(options(folder.file("file"))), HasSubstr("cache folder"));
  if (geteuid() != 0) {  // root may write anywhere
    fs::create_directory(folder.file("locked"));
    fs::permissions(folder.file("locked"), fs::perms::owner_read | fs::perms::owner_exec);
    EXPECT_THAT(message(options(folder.file("locked"))), HasSubstr("cannot write to the cache"));
  }
}

}  // namespace
}  // namespace fathom
