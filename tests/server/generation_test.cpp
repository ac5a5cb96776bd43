// Generations below any protocol: several choices, queues that are full, selections, what is let
// go.
#include "server/generation.h"

#include "openai_fixture.h"

namespace fathom::server {
namespace {

// Everything that listen was told.
struct Heard {
  std::vector<std::string> text, finish, stop;
  std::vector<Message> messages;
  std::optional<Failure> failure;
  size_t ended = 0;

  explicit Heard(size_t choices)
      : text(choices), finish(choices), stop(choices), messages(choices) {}
  void take(const GenerationEvent& e) {
    const auto c = static_cast<size_t>(e.choice);
    EXPECT_TRUE(finish.at(c).empty()) << "an event behind the last";
    for (const CompletionEvent& piece : e.pieces)
      if (piece.kind == CompletionEvent::Kind::content) text.at(c) += piece.text;
    if (e.failure) failure = e.failure;
    if (!e.ended) return;
    ++ended;
    finish[c] = e.finish_reason;
    stop[c] = e.stop_text;
    if (e.message) messages[c] = *e.message;
  }
};

class GenerationTest : public OpenAiTest {
 protected:
  explicit GenerationTest(ScriptedEngine::Options o = {}) : OpenAiTest(o) {}

  GenerationRequest request_of(const std::string& prompt) {
    GenerationRequest r;
    r.id = "chatcmpl-abc";
    r.prompt = tokenizer().encode(prompt);
    return r;
  }
  std::optional<Failure> begin(std::vector<GenerationRequest> prompts, Heard& heard) {
    return start_generation(service, reply, std::move(prompts),
                            [&heard](const GenerationEvent& e) { heard.take(e); });
  }
  void run_until_ended(Heard& heard, size_t choices) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (heard.ended < choices && std::chrono::steady_clock::now() < deadline)
      if (reply->run() == 0) std::this_thread::yield();
    EXPECT_EQ(heard.ended, choices);
  }

  std::shared_ptr<FakeReply> reply = std::make_shared<FakeReply>();
};

class GenerationByHandTest : public GenerationTest {
 protected:
  static ScriptedEngine::Options few() {
    ScriptedEngine::Options o;
    o.by_hand = true;
    o.max_queue = 2;
    o.max_seqs = 1;
    return o;
  }
  GenerationByHandTest() : GenerationTest(few()) {}
};

TEST_F(GenerationTest, SeveralPromptsEachWithItsChoices) {
  author = [this](const Request& r) {
    requests.push_back(r);
    return Script{r.ids};  // says what it was told
  };
  std::vector<GenerationRequest> prompts = {request_of("one"), request_of("two")};
  for (GenerationRequest& r : prompts) r.n = 2;
  Heard heard(4);
  ASSERT_FALSE(begin(std::move(prompts), heard));
  EXPECT_EQ(heard.ended, 0u) << "listen was called before start_generation returned";
  run_until_ended(heard, 4);
  EXPECT_EQ(heard.text, (std::vector<std::string>{"one", "one", "two", "two"}));
  EXPECT_EQ(requests.size(), 4u);
  // The reply is let go with the last event, even though the engine may still hold the request.
  EXPECT_TRUE(engine.wait_idle());
  while (reply->run() > 0) {
  }
  EXPECT_EQ(reply.use_count(), 1);
}

TEST_F(GenerationTest, MessagesNameTheirCalls) {
  answer_with(
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
      "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
  GenerationRequest r = request_of("x");
  r.n = 2;
  Heard heard(2);
  ASSERT_FALSE(begin({r}, heard));
  run_until_ended(heard, 2);
  EXPECT_EQ(heard.finish[0], "tool_calls");
  EXPECT_EQ(heard.messages[0].tool_calls.at(0).id, tool_call_id("chatcmpl-abc", 0, 0));
  EXPECT_EQ(heard.messages[1].tool_calls.at(1).id, "call_abc0101");
}

TEST_F(GenerationTest, StopTextsAreNamed) {
  answer_with("a b END c");
  GenerationRequest r = request_of("x");
  r.stop = {"never", " END"};
  Heard heard(1);
  ASSERT_FALSE(begin({r}, heard));
  run_until_ended(heard, 1);
  EXPECT_EQ(heard.text[0], "a b");
  EXPECT_EQ(heard.stop[0], " END");
  EXPECT_EQ(heard.finish[0], "stop");
  EXPECT_EQ(heard.messages[0].content, "a b");
}

TEST_F(GenerationTest, SelectionsOfTheFirstChoiceAreKept) {
  service.options.keep_selection = true;
  answer_with("one two");
  GenerationRequest r = request_of("some prompt");
  r.n = 2;
  Heard heard(2);
  ASSERT_FALSE(begin({r}, heard));
  run_until_ended(heard, 2);
  SelectionStore::Text text;
  ASSERT_TRUE(selections.find("chatcmpl-abc", text));
  EXPECT_EQ(text.prompt, static_cast<int64_t>(r.prompt.size()));
  EXPECT_EQ(text.kept, static_cast<int64_t>(tokenizer().encode("one two").size()) + 1);
  EXPECT_EQ(text.layers, 2);
  EXPECT_TRUE(requests.at(0).keep_selection);
  EXPECT_FALSE(requests.at(1).keep_selection);
}

TEST_F(GenerationByHandTest, AFullQueueStartsNothing) {
  service.options.keep_selection = true;
  answer_with("ok");
  Heard others(2), late(1);
  ASSERT_FALSE(begin({2, request_of("x")}, others));
  const auto reply_of_the_first = std::exchange(reply, std::make_shared<FakeReply>());
  GenerationRequest r = request_of("y");
  r.id = "chatcmpl-late";
  const auto failure = begin({r}, late);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->status, 429);
  EXPECT_EQ(engine.submitted().size(), 2u);
  reply->run();
  EXPECT_EQ(late.ended, 0u);
  // Nothing is remembered of what did not begin.
  SelectionStore::Text text;
  EXPECT_TRUE(selections.find("chatcmpl-abc", text));
  EXPECT_FALSE(selections.find("chatcmpl-late", text));
  reply_of_the_first->abandon();
  reply_of_the_first->run();
  EXPECT_TRUE(engine.wait_idle());
}

// A request that was let in is not refused half-way: what finds the queue full waits.
TEST_F(GenerationByHandTest, PromptsAndChoicesWaitForRoom) {
  answer_with("ok");
  std::vector<GenerationRequest> prompts(5, request_of("x"));
  for (GenerationRequest& r : prompts) r.n = 3;
  Heard heard(15);
  ASSERT_FALSE(begin(std::move(prompts), heard));
  EXPECT_EQ(engine.submitted().size(), 2u);
  EXPECT_EQ(reply->timer_seconds(), 0.05);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (heard.ended < 15 && !heard.failure && std::chrono::steady_clock::now() < deadline) {
    engine.advance();
    reply->expire();
    if (reply->run() == 0) std::this_thread::yield();
  }
  EXPECT_FALSE(heard.failure);
  EXPECT_EQ(heard.text, std::vector<std::string>(15, "ok"));
  EXPECT_EQ(engine.submitted().size(), 15u);
  EXPECT_TRUE(engine.wait_idle());
}

TEST_F(GenerationByHandTest, WhatWaitsForRoomEndsWithTheRest) {
  answer_with("ok");
  service.options.request_seconds = 1e-9;
  Heard heard(5);
  ASSERT_FALSE(begin({5, request_of("x")}, heard));
  EXPECT_EQ(reply->timer_seconds(), 0);  // the time limit comes before another try
  reply->expire();
  reply->run();
  EXPECT_EQ(heard.ended, 5u);
  ASSERT_TRUE(heard.failure);
  EXPECT_EQ(heard.failure->status, 504);
  EXPECT_TRUE(engine.wait_cancelled(2));
  EXPECT_TRUE(engine.wait_idle());
  EXPECT_EQ(engine.submitted().size(), 2u);
}

// A long list of prompts leaves room in the queue for others.
TEST_F(GenerationTest, TheEngineHasABoundedNumberAtATime) {
  size_t most = 0;
  author = [&](const Request&) {
    const EngineSnapshot now = engine.snapshot();
    most = std::max(most, static_cast<size_t>(now.waiting));
    return Script{tokenizer().encode("ok")};
  };
  Heard heard(600);
  ASSERT_FALSE(begin({600, request_of("x")}, heard));
  EXPECT_EQ(engine.submitted().size(), 128u);
  run_until_ended(heard, 600);
  EXPECT_FALSE(heard.failure);
  EXPECT_LE(most, 128u);
  EXPECT_EQ(engine.submitted().size(), 600u);
}

TEST_F(GenerationByHandTest, AClientGoneBeforeTheFirstToken) {
  answer_with("one two");
  GenerationRequest r = request_of("x");
  r.n = 2;
  Heard heard(2);
  ASSERT_FALSE(begin({r}, heard));
  reply->abandon();
  reply->run();
  EXPECT_TRUE(engine.wait_cancelled(1));
  EXPECT_TRUE(engine.wait_idle());
  reply->run();
  EXPECT_EQ(heard.ended, 0u);
  EXPECT_EQ(engine.submitted().size(), 1u);
  EXPECT_EQ(reply.use_count(), 1);
  const std::string line = R"(finished_reason="abort",model_name="fathom-small"} 1)";
  EXPECT_NE(metrics.render(engine.snapshot()).find(line), std::string::npos);
}

TEST(NewId, IsRandomHex) {
  const std::string a = new_id("chatcmpl-"), b = new_id("chatcmpl-");
  EXPECT_NE(a, b);
  EXPECT_THAT(a, ::testing::MatchesRegex("chatcmpl-[0-9a-f]+"));
  EXPECT_EQ(a.size(), std::string("chatcmpl-").size() + 24);
}

}  // namespace
}  // namespace fathom::server
