// What the indexer selected comes back as it was given, within the bytes that were promised.
#include "server/selection_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <numeric>
#include <random>
#include <thread>

namespace fathom::server {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Layers = std::vector<std::vector<int32_t>>;

constexpr size_t kPlenty = 64 << 20;

void append(SelectionStore& store, const std::string& id, int32_t token, const Layers& layers) {
  Selection selection;
  for (const auto& layer : layers) selection.layers.emplace_back(layer);
  store.append(id, token, selection);
}

Layers layers_of(const SelectionStore& store, const std::string& id, int64_t token) {
  Layers layers;
  EXPECT_TRUE(store.find(id, token, layers)) << id << " " << token;
  return layers;
}

bool knows(const SelectionStore& store, const std::string& id) {
  SelectionStore::Text text;
  return store.find(id, text);
}

std::vector<int32_t> run(int32_t first, int32_t count) {
  std::vector<int32_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

TEST(SelectionStore, GivesBackWhatItWasGiven) {
  SelectionStore store(kPlenty);
  store.begin("a", {7, 8, 9});
  const Layers first = {{0, 2}, {}, {1}}, second = {{0, 1, 2, 3}, {3}, {0, 3}};
  append(store, "a", 20, first);
  append(store, "a", 21, second);

  SelectionStore::Text text;
  ASSERT_TRUE(store.find("a", text));
  EXPECT_THAT(text.ids, ElementsAre(7, 8, 9, 20, 21));
  EXPECT_EQ(text.prompt, 3);
  EXPECT_EQ(text.kept, 2);
  EXPECT_EQ(text.layers, 3);
  EXPECT_EQ(layers_of(store, "a", 0), first);
  EXPECT_EQ(layers_of(store, "a", 1), second);
}

TEST(SelectionStore, PacksEveryShapeOfPositions) {
  const int32_t last = std::numeric_limits<int32_t>::max() - 1;
  const Layers layers = {
      {},
      {0},
      {last},
      {0, 1},
      {0, 1, 2},
      {5, 6, 7, 8, 10, 12, 13, 14, 15, 16},
      {126, 127, 128, 254, 255, 382, 383, 511},  // gaps around one and two bytes
      {0, last},
      run(0, 1),
      run(0, 130),
      run(1000000, 20000),
  };
  SelectionStore store(kPlenty);
  store.begin("a", {});
  append(store, "a", 1, layers);
  EXPECT_EQ(layers_of(store, "a", 0), layers);
}

TEST(SelectionStore, PacksRandomPositions) {
  std::mt19937 random(1);
  SelectionStore store(kPlenty);
  store.begin("a", {});
  std::vector<Layers> all;
  for (int density : {2, 5, 50, 98}) {
    Layers layers(6);
    for (auto& layer : layers) {
      for (int32_t position = 0; position < 3000; ++position) {
        if (static_cast<int>(random() % 100) < density) layer.push_back(position);
      }
    }
    append(store, "a", 1, layers);
    all.push_back(layers);
  }
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(layers_of(store, "a", static_cast<int64_t>(i)), all[i]);
  }
}

TEST(SelectionStore, UnknownRequestsAndTokens) {
  SelectionStore store(kPlenty);
  Layers layers;
  EXPECT_FALSE(knows(store, "a"));
  append(store, "a", 1, {{0}});  // never begun: of no consequence
  EXPECT_FALSE(knows(store, "a"));
  store.begin("a", {1});
  EXPECT_FALSE(store.find("a", 0, layers));
  append(store, "a", 1, {{0}});
  EXPECT_FALSE(store.find("a", -1, layers));
  EXPECT_FALSE(store.find("a", 1, layers));
  EXPECT_TRUE(store.find("a", 0, layers));
}

TEST(SelectionStore, AnIdThatBeginsAgainStartsOver) {
  SelectionStore store(kPlenty);
  store.begin("a", {1});
  append(store, "a", 2, {{0}});
  store.begin("a", {5, 6});
  SelectionStore::Text text;
  ASSERT_TRUE(store.find("a", text));
  EXPECT_THAT(text.ids, ElementsAre(5, 6));
  EXPECT_EQ(text.kept, 0);
}

TEST(SelectionStore, TheOldestRequestGoesFirst) {
  SelectionStore store(10000);
  for (const char* id : {"a", "b", "c"}) store.begin(id, std::vector<int32_t>(500, 1));
  EXPECT_TRUE(knows(store, "a"));
  store.begin("d", std::vector<int32_t>(500, 1));  // four times 2,512 bytes and ids: too much
  EXPECT_FALSE(knows(store, "a"));
  EXPECT_TRUE(knows(store, "b"));
  EXPECT_TRUE(knows(store, "d"));
  append(store, "a", 1, {{0}});  // still generating, no longer kept
  EXPECT_FALSE(knows(store, "a"));
}

TEST(SelectionStore, GrowingRequestsPushOutOlderOnesAlone) {
  SelectionStore store(10000);
  store.begin("old", std::vector<int32_t>(500, 1));
  store.begin("mid", std::vector<int32_t>(500, 1));
  store.begin("new", std::vector<int32_t>(500, 1));
  std::vector<int32_t> scattered;
  for (int32_t i = 0; i < 1000; ++i) scattered.push_back(i * 2);
  for (int i = 0; i < 8; ++i) append(store, "mid", i, {scattered});
  EXPECT_FALSE(knows(store, "old"));
  EXPECT_TRUE(knows(store, "new"));
  SelectionStore::Text text;
  ASSERT_TRUE(store.find("mid", text));
  EXPECT_GT(text.kept, 0);
  EXPECT_LT(text.kept, 8);
  EXPECT_EQ(text.ids.size(), 508u);
}

TEST(SelectionStore, ARequestTooLargeAloneKeepsItsFirstTokens) {
  SelectionStore store(20000);
  store.begin("a", {1, 2, 3});
  std::vector<int32_t> scattered;
  for (int32_t i = 0; i < 1000; ++i) scattered.push_back(i * 2);
  for (int i = 0; i < 100; ++i) append(store, "a", i, {scattered, {0}});
  append(store, "a", 100, {{0}, {0}});  // would fit again, but there are no holes
  SelectionStore::Text text;
  ASSERT_TRUE(store.find("a", text));
  EXPECT_GT(text.kept, 10);
  EXPECT_LT(text.kept, 20);
  EXPECT_EQ(layers_of(store, "a", text.kept - 1), (Layers{scattered, {0}}));
  Layers layers;
  EXPECT_FALSE(store.find("a", text.kept, layers));
}

TEST(SelectionStore, APromptThatDoesNotFitIsNotKept) {
  SelectionStore store(1000);
  store.begin("a", {1});
  store.begin("b", std::vector<int32_t>(1000, 1));
  EXPECT_FALSE(knows(store, "b"));
  SelectionStore none(0);
  none.begin("a", {});
  EXPECT_FALSE(knows(none, "a"));
}

// Short contexts select everything: runs cost next to nothing, so thousands of tokens fit.
TEST(SelectionStore, RunsAreSmall) {
  SelectionStore store(1 << 20);
  store.begin("a", {});
  const Layers layers(5, run(0, 2000));
  for (int i = 0; i < 5000; ++i) append(store, "a", i, layers);
  SelectionStore::Text text;
  ASSERT_TRUE(store.find("a", text));
  EXPECT_EQ(text.kept, 5000);
}

TEST(SelectionStore, ReadersAndWritersAtOnce) {
  SelectionStore store(200000);
  std::atomic<bool> done = false;
  std::thread reader([&] {
    while (!done) {
      SelectionStore::Text text;
      if (!store.find("r3", text) || text.kept == 0) continue;
      Layers layers;
      if (!store.find("r3", text.kept - 1, layers)) continue;
      EXPECT_EQ(layers, (Layers{{0, 2}, {1}}));
    }
  });
  std::vector<std::thread> writers;
  for (int w = 0; w < 2; ++w) {
    writers.emplace_back([&store, w] {
      for (int i = 0; i < 2000; ++i) {
        const std::string id = "r" + std::to_string((w + i) % 5);
        if (i % 50 == 0) store.begin(id, {1, 2});
        append(store, id, i, {{0, 2}, {1}});
      }
    });
  }
  for (auto& writer : writers) writer.join();
  done = true;
  reader.join();
}

}  // namespace
}  // namespace fathom::server
