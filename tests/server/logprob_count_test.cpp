// Log-probabilities by number: programs that score texts (lm-evaluation-harness) find a token's by
// its place, so an ended answer has one for every token that its usage counts, whatever ended it.
#include "openai_fixture.h"
#include "server/api/openai_format.h"

namespace fathom::server {
namespace {

// An answer and what ends it: fields of the request, and how the answer goes on behind the text.
struct Ending {
  const char* name;
  std::string fields;   // of the request, with a comma in front
  std::string answer;   // what the engine says, before the end of sentence
  size_t tokens;        // completion_tokens of one choice; 0: of `answer`, and the end of sentence
  std::string visible;  // the text that the client gets of it
};

class LogprobCountTest : public OpenAiTest {
 protected:
  std::vector<Ending> endings() {
    const size_t all = tokenizer().encode("Tea for two").size();
    const std::string stop_id =
        fmt::format(R"(, "stop_token_ids": [{}])", tokenizer().encode(" two").at(0));
    // What the first `count` tokens of an answer spell.
    const auto first = [this](const std::string& text, size_t count) {
      std::vector<int32_t> ids = tokenizer().encode(text, false);
      ids.resize(std::min(count, ids.size()));
      return tokenizer().decode(ids);
    };
    return {
        {"end of sentence", "", "Tea for two", all + 1, "Tea for two"},
        {"at once", "", "", 1, ""},
        {"at once, of one token", R"(, "max_tokens": 1)", "", 1, ""},
        {"one token", R"(, "max_tokens": 1)", "Tea", 1, first("Tea", 1)},
        {"length", R"(, "max_tokens": 2)", "Tea for two", 2, first("Tea for two", 2)},
        {"stop id", stop_id, "Tea for two", all, "Tea for"},
        {"stop text", R"(, "stop": " for")", "Tea for two", 0, "Tea"},
        {"stop text of several tokens", R"(, "stop": " for two")", "Tea for two", 0, "Tea"},
        {"stop text inside a token", R"(, "stop": "wo")", "Tea for two", 0, "Tea for t"},
        {"stop text that begins and does not end", R"(, "stop": " two!")", "Tea for two", all + 1,
         "Tea for two"},
        {"half a character", R"(, "max_tokens": 1)", "☕", 1, "\uFFFD"},
        {"past the end of sentence", R"(, "ignore_eos": true, "max_tokens": 3)",
         "a<｜end▁of▁sentence｜>b", 3, "ab"},
        {"added tokens that are not special", "", "a<｜User｜>b<｜Assistant｜>", 5,
         "a<｜User｜>b<｜Assistant｜>"},
    };
  }

  // The lists of one choice, joined where they came in pieces, and its text.
  struct Lists {
    std::string text;
    OrderedJson logprobs = OrderedJson::object();
  };
  static void join(Lists& lists, const OrderedJson& choice) {
    if (choice.contains("text")) lists.text += choice["text"].get<std::string>();
    if (!choice["logprobs"].is_object()) return;
    for (const auto& [key, list] : choice["logprobs"].items())
      if (list.is_array())
        for (const OrderedJson& entry : list) lists.logprobs[key].push_back(entry);
  }

  // The lists of every choice, and the usage, of an answer as a whole or as a stream.
  std::vector<Lists> ask(const std::string& path, const std::string& fields, bool streamed,
                         size_t choices, OrderedJson& usage) {
    std::vector<Lists> lists(choices);
    if (!streamed) {
      const OrderedJson got = answer(path, "{" + fields + "}");
      for (const OrderedJson& choice : got["choices"]) join(lists.at(choice["index"]), choice);
      usage = got["usage"];
      return lists;
    }
    for (const OrderedJson& chunk :
         stream(path,
                "{" + fields + R"(, "stream": true, "stream_options": {"include_usage": true}})")) {
      for (const OrderedJson& choice : chunk["choices"]) join(lists.at(choice["index"]), choice);
      if (!chunk["usage"].is_null()) usage = chunk["usage"];
    }
    return lists;
  }
};

TEST_F(LogprobCountTest, TextCompletions) {
  const size_t prompt = tokenizer().encode("Once upon").size();
  for (const Ending& e : endings()) {
    answer_with(e.answer);
    for (const bool echo : {false, true}) {
      for (const bool streamed : {false, true}) {
        for (const size_t n : {1u, 2u}) {
          SCOPED_TRACE(fmt::format("{}, echo {}, streamed {}, n {}", e.name, echo, streamed, n));
          OrderedJson usage;
          const auto lists = ask("/v1/completions",
                                 fmt::format(R"("prompt": "Once upon", "logprobs": 1, "n": {},
                                             "echo": {}{})",
                                             n, echo, e.fields),
                                 streamed, n, usage);
          EXPECT_EQ(usage["prompt_tokens"], prompt);
          const size_t answered = usage["completion_tokens"].get<size_t>() / n;
          if (e.tokens > 0) {
            EXPECT_EQ(answered, e.tokens);
          }
          for (const Lists& l : lists) {
            EXPECT_EQ(l.text, (echo ? "Once upon" : "") + e.visible);
            for (const char* key : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
              ASSERT_TRUE(l.logprobs.contains(key)) << key;
              EXPECT_EQ(l.logprobs[key].size(), answered + (echo ? prompt : 0)) << key;
            }
            for (size_t i = 1; i < l.logprobs["tokens"].size(); ++i) {
              EXPECT_EQ(l.logprobs["token_logprobs"][i], -0.5);
              EXPECT_GE(l.logprobs["text_offset"][i], l.logprobs["text_offset"][i - 1]);
            }
          }
        }
      }
    }
  }
}

// What lm-evaluation-harness does: it asks for one token that it does not want, and takes the
// entries between the context and the last one for the continuation's.
TEST_F(LogprobCountTest, TheTokenThatEndsAnAnswerStandsAtTheEndOfTheText) {
  answer_with("");
  const OrderedJson got = answer(
      "/v1/completions", R"({"prompt": "Once", "echo": true, "logprobs": 1, "max_tokens": 1})");
  const OrderedJson& l = got["choices"][0]["logprobs"];
  EXPECT_EQ(got["choices"][0]["text"], "Once");
  EXPECT_EQ(got["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(l["tokens"].back(), "<｜end▁of▁sentence｜>");
  EXPECT_EQ(l["token_logprobs"].back(), -0.5);
  EXPECT_EQ(l["text_offset"].back(), 4);
  EXPECT_TRUE(l["top_logprobs"].back().contains("<｜end▁of▁sentence｜>"));
}

TEST_F(LogprobCountTest, ThePromptAloneHasItsOwn) {
  const size_t prompt = tokenizer().encode("Once upon").size();
  answer_with("never seen");
  for (const bool streamed : {false, true}) {
    OrderedJson usage;
    const auto lists = ask("/v1/completions",
                           R"("prompt": "Once upon", "logprobs": 1, "max_tokens": 0, "echo": true)",
                           streamed, 1, usage);
    EXPECT_EQ(usage["completion_tokens"], 0);
    EXPECT_EQ(lists[0].logprobs["token_logprobs"].size(), prompt);
  }
}

TEST_F(LogprobCountTest, Chat) {
  std::vector<Ending> all = endings();
  all.push_back({"reasoning", R"(, "enable_thinking": true)", "So.</think>Tea", 0, ""});
  all.push_back({"reasoning that does not end", R"(, "enable_thinking": true)", "So it", 0, ""});
  all.push_back({"a call", R"(, "tools": [{"type": "function", "function": {"name": "tea"}}])",
                 "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tea<｜tool▁sep｜>{}"
                 "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                 0, ""});
  all.push_back({"the only call",
                 R"(, "parallel_tool_calls": false,
                    "tools": [{"type": "function", "function": {"name": "tea"}}])",
                 "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tea<｜tool▁sep｜>{}"
                 "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                 0, ""});
  for (const Ending& e : all) {
    answer_with(e.answer);
    for (const bool streamed : {false, true}) {
      for (const size_t n : {1u, 2u}) {
        SCOPED_TRACE(fmt::format("{}, streamed {}, n {}", e.name, streamed, n));
        OrderedJson usage;
        const auto lists = ask("/v1/chat/completions",
                               fmt::format(R"("messages": [{{"role": "user", "content": "Hello"}}],
                                           "logprobs": true, "n": {}{})",
                                           n, e.fields),
                               streamed, n, usage);
        const size_t answered = usage["completion_tokens"].get<size_t>() / n;
        if (e.tokens > 0) {
          EXPECT_EQ(answered, e.tokens);
        }
        for (const Lists& l : lists) EXPECT_EQ(l.logprobs["content"].size(), answered);
      }
    }
  }
}

}  // namespace
}  // namespace fathom::server
