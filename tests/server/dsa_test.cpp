// GET /v1/dsa/selection: the text in pieces, the selection by layer, and refusals that help.
#include "server/dsa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/fake_reply.h"

namespace fathom::server {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class Dsa : public testing::Test {
 protected:
  Dsa() : tokenizer_(Tokenizer::from_folder(FATHOM_SOURCE_DIR "/models/small")), store_(1 << 20) {}

  std::vector<int32_t> encode(std::string_view text) { return tokenizer_.encode(text); }

  void append(const std::string& id, int32_t token, std::vector<std::vector<int32_t>> layers,
              bool drafted = false) {
    Selection selection;
    for (const auto& layer : layers) selection.layers.emplace_back(layer);
    store_.append(id, token, selection, drafted);
  }

  json ask(std::map<std::string, std::string> query, int status = 200) {
    HttpRequest request;
    request.query = std::move(query);
    FakeReply reply;
    answer_selection({store_, tokenizer_, "small", keeps_}, request, reply);
    EXPECT_EQ(reply.status(), status) << reply.body();
    EXPECT_EQ(reply.content_type(), "application/json");
    return json::parse(reply.body());
  }

  std::string refusal(std::map<std::string, std::string> query, int status) {
    return ask(std::move(query), status)["error"]["message"];
  }

  Tokenizer tokenizer_;
  SelectionStore store_;
  bool keeps_ = true;
};

TEST_F(Dsa, SaysWhetherSelectionsAreKept) {
  EXPECT_EQ(ask({}), json({{"keep_selection", true}}));
  keeps_ = false;
  EXPECT_EQ(ask({}), json({{"keep_selection", false}}));
}

TEST_F(Dsa, TheTextComesInPieces) {
  const auto prompt = encode("The pass key of Alice is 48213.");
  store_.begin("chatcmpl-1", prompt);
  const auto answer = encode(" It is 48213.");
  for (size_t i = 0; i < answer.size(); ++i)
    append("chatcmpl-1", answer[i], {{0}, {0, 1}}, i == 1 || i == 3);
  const json got = ask({{"request", "chatcmpl-1"}});
  EXPECT_EQ(got["drafted"], json({1, 3}));
  EXPECT_EQ(got["request"], "chatcmpl-1");
  EXPECT_EQ(got["model"], "small");
  EXPECT_EQ(got["prompt_tokens"], prompt.size());
  EXPECT_EQ(got["generated_tokens"], answer.size());
  EXPECT_EQ(got["kept"], answer.size());
  EXPECT_EQ(got["layers"], 2);
  ASSERT_EQ(got["tokens"].size(), prompt.size() + answer.size());
  std::string joined;
  for (const auto& piece : got["tokens"]) joined += piece;
  EXPECT_EQ(joined, "The pass key of Alice is 48213. It is 48213.");
}

// A character of several tokens belongs to the one that completes it, both in the list and alone.
TEST_F(Dsa, HalvesOfCharactersAreJoined) {
  const std::string text = "a 🦔 b é 漢字 🏴‍☠️";
  const auto ids = encode(text);
  ASSERT_GT(ids.size(), 10u);
  store_.begin("r", {ids[0]});
  for (size_t i = 1; i < ids.size(); ++i) append("r", ids[i], {{0}});
  const json got = ask({{"request", "r"}});
  std::string joined;
  for (const auto& piece : got["tokens"]) joined += piece;
  EXPECT_EQ(joined, text);
  for (size_t i = 1; i < ids.size(); ++i) {
    EXPECT_EQ(ask({{"request", "r"}, {"token", std::to_string(i - 1)}})["text"], got["tokens"][i]);
  }
}

TEST_F(Dsa, ATextCutInsideACharacterStaysJson) {
  const auto ids = encode("🦔");
  ASSERT_GT(ids.size(), 1u);
  store_.begin("r", {});
  append("r", ids[0], {{}});
  EXPECT_EQ(ask({{"request", "r"}})["tokens"][0], "\uFFFD");
  EXPECT_EQ(ask({{"request", "r"}, {"token", "0"}})["text"], "\uFFFD");
}

TEST_F(Dsa, TheSelectionOfATokenByLayer) {
  store_.begin("r", encode("one two three four five six seven eight"));
  SelectionStore::Text text;
  ASSERT_TRUE(store_.find("r", text));
  const auto n = static_cast<double>(text.prompt);
  append("r", 5, {{0, 1, 2, 5}, {3}, {}});
  append("r", 6, {{0, 2, 3, 4, 6}, {3}, {1}});

  const json first = ask({{"request", "r"}, {"token", "0"}});
  EXPECT_EQ(first["token"], 0);
  EXPECT_EQ(first["position"], text.prompt);
  EXPECT_EQ(first["context_tokens"], text.prompt);
  EXPECT_EQ(first["layers"][0], json({{"layer", 0},
                                      {"selected", {json::array({0, 2}), 5}},
                                      {"share", 4 / n},
                                      {"overlap", nullptr}}));
  EXPECT_EQ(first["layers"][2]["selected"], json::array());
  EXPECT_EQ(first["layers"][2]["share"], 0.0);

  const json second = ask({{"request", "r"}, {"token", "1"}});
  EXPECT_EQ(second["position"], text.prompt + 1);
  EXPECT_EQ(second["layers"][0]["selected"], json({0, json::array({2, 4}), 6}));
  EXPECT_EQ(second["layers"][0]["overlap"], 2 / 5.0);
  EXPECT_EQ(second["layers"][0]["share"], 5 / (n + 1));
  EXPECT_EQ(second["layers"][1]["overlap"], 1.0);
  EXPECT_EQ(second["layers"][2]["overlap"], 0.0);
}

TEST_F(Dsa, RefusesWhatItCannotAnswer) {
  EXPECT_THAT(refusal({{"request", "nobody"}}, 404), HasSubstr("nobody"));
  EXPECT_THAT(refusal({{"request", "nobody"}, {"token", "x"}}, 404), HasSubstr("nobody"));
  EXPECT_THAT(refusal({{"request", "\xff"}}, 404), HasSubstr("\uFFFD"));
  EXPECT_THAT(refusal({{"token", "0"}}, 400), HasSubstr("request"));
  keeps_ = false;
  EXPECT_THAT(refusal({{"request", "nobody"}}, 404), HasSubstr("--keep-selection"));

  store_.begin("r", {1});
  EXPECT_THAT(refusal({{"request", "r"}, {"token", "0"}}, 400), HasSubstr("below 0"));
  append("r", 5, {{0}});
  for (const char* bad :
       {"1", "-1", "", " 0", "0 ", "+0", "0x0", "1e0", "9223372036854775808", "\xff"}) {
    EXPECT_THAT(refusal({{"request", "r"}, {"token", bad}}, 400), HasSubstr("below 1")) << bad;
  }
}

TEST_F(Dsa, TokensPastTheStoresLimitAreNotFound) {
  SelectionStore small(4000);
  small.begin("r", {1});
  std::vector<int32_t> scattered;
  for (int32_t i = 0; i < 2000; ++i) scattered.push_back(2 * i);
  Selection selection;
  selection.layers.emplace_back(scattered);
  for (int i = 0; i < 3; ++i) small.append("r", 1, selection);
  HttpRequest request;
  request.query = {{"request", "r"}, {"token", "2"}};
  FakeReply reply;
  answer_selection({small, tokenizer_, "small", true}, request, reply);
  EXPECT_EQ(reply.status(), 404);
  EXPECT_THAT(reply.body(), HasSubstr("first 1 tokens"));
}

}  // namespace
}  // namespace fathom::server
