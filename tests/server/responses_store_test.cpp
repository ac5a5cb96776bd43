// What /v1/responses remembers, and that it forgets.
#include "server/api/responses_store.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace fathom::server {
namespace {

StoredResponse stored(const std::string& text) {
  StoredResponse s;
  s.response = {{"output", {{{"id", "item_" + text}, {"text", text}}}}};
  Message m;
  m.content = text;
  s.conversation.push_back(std::move(m));
  return s;
}

TEST(ResponseStore, FindsAndErases) {
  ResponseStore store(4);
  store.put("a", stored("one"));
  ASSERT_NE(store.find("a"), nullptr);
  EXPECT_EQ(store.find("a")->conversation[0].content, "one");
  EXPECT_EQ((*store.find_item("item_one"))["text"], "one");
  EXPECT_FALSE(store.find_item("item_two"));
  EXPECT_TRUE(store.erase("a"));
  EXPECT_FALSE(store.erase("a"));
  EXPECT_EQ(store.find("a"), nullptr);
  EXPECT_EQ(store.bytes(), 0u);
}

TEST(ResponseStore, TheLeastUsedGoesFirst) {
  ResponseStore store(2);
  store.put("a", stored("1"));
  store.put("b", stored("2"));
  store.find("a");
  store.put("c", stored("3"));
  EXPECT_NE(store.find("a"), nullptr);
  EXPECT_EQ(store.find("b"), nullptr);
  EXPECT_NE(store.find("c"), nullptr);
}

TEST(ResponseStore, BytesAreBounded) {
  ResponseStore store(1000, 100'000);
  for (int i = 0; i < 100; ++i) {
    store.put(std::to_string(i), stored(std::string(10'000, 'x')));
    EXPECT_LE(store.bytes(), 100'000u);
  }
  EXPECT_NE(store.find("99"), nullptr);
  EXPECT_EQ(store.find("0"), nullptr);
  store.put("huge", stored(std::string(200'000, 'x')));
  EXPECT_EQ(store.find("huge"), nullptr);
  EXPECT_NE(store.find("99"), nullptr) << "what cannot be kept pushes nothing out";
}

TEST(ResponseStore, ReplacingCountsOnce) {
  ResponseStore store(4);
  store.put("a", stored("1"));
  const size_t bytes = store.bytes();
  store.put("a", stored("2"));
  EXPECT_EQ(store.bytes(), bytes);
  EXPECT_EQ(store.find("a")->conversation[0].content, "2");
}

TEST(ResponseStore, ZeroKeepsNothing) {
  ResponseStore store(0);
  store.put("a", stored("1"));
  EXPECT_EQ(store.find("a"), nullptr);
}

TEST(ResponseStore, ManyThreads) {
  ResponseStore store(8);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&store, t] {
      for (int i = 0; i < 200; ++i) {
        const std::string id = std::to_string((i * 7 + t) % 20);
        store.put(id, stored(id));
        if (const auto found = store.find(id)) {
          EXPECT_EQ(found->conversation[0].content, id);
        }
        store.find_item("item_3");
        if (i % 3 == 0) store.erase(id);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_LE(store.bytes(), 8u * 1000);
}

}  // namespace
}  // namespace fathom::server
