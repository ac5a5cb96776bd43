// Answers read token by token: what is decided, what a stop text cuts, what comes out in the end.
#include "text/answer_reader.h"

#include <gtest/gtest.h>

#include "text_data.h"

namespace fathom {
namespace {

using Kind = CompletionEvent::Kind;

const Tokenizer& tokenizer() {
  static const Tokenizer t = Tokenizer::from_folder(test::source_path("models/small"));
  return t;
}

struct Read {
  std::string content, reasoning;
  std::vector<std::string> calls;
  size_t tokens = 0;  // read before the end
};

Read read(AnswerReader& reader, const std::string& text) {
  Read out;
  AnswerReader::Events pieces;
  for (const int32_t id : tokenizer().encode(text)) {
    if (reader.stopped()) break;
    reader.push(id, pieces);
    ++out.tokens;
    EXPECT_LE(reader.decided(), reader.text_bytes());
  }
  if (!reader.stopped()) reader.finish(pieces);
  for (const CompletionEvent& piece : pieces) {
    if (piece.kind == Kind::content) out.content += piece.text;
    if (piece.kind == Kind::reasoning) out.reasoning += piece.text;
    if (piece.kind == Kind::tool_name) out.calls.push_back(piece.text);
  }
  EXPECT_EQ(out.content, reader.message().content);
  EXPECT_EQ(out.reasoning, reader.message().reasoning_content);
  EXPECT_EQ(out.calls.size(), reader.message().tool_calls.size());
  return out;
}

constexpr const char* kTwoCalls =
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";

TEST(AnswerReader, ReasoningContentAndCalls) {
  AnswerReader reader(tokenizer(), {.thinking = true, .stop = {}});
  const Read got = read(reader, std::string("why</think>so") + kTwoCalls);
  EXPECT_EQ(got.reasoning, "why");
  EXPECT_EQ(got.content, "so");
  EXPECT_EQ(got.calls, (std::vector<std::string>{"f", "g"}));
  EXPECT_EQ(reader.finish_reason(), "tool_calls");
}

TEST(AnswerReader, DecidedIsWhereTheStopTextBegins) {
  const std::string text = "Tea ☕ and 🍵END more";
  AnswerReader reader(tokenizer(), {.stop = {"🍵END"}});
  const Read got = read(reader, text);
  EXPECT_TRUE(reader.stopped());
  EXPECT_EQ(reader.stop_text(), "🍵END");
  EXPECT_EQ(got.content, "Tea ☕ and ");
  EXPECT_EQ(reader.decided(), got.content.size());
  EXPECT_LT(got.tokens, tokenizer().encode(text).size());
}

TEST(AnswerReader, NoStopTextGoesAcrossAToolCall) {
  AnswerReader reader(tokenizer(), {.stop = {"EN D", "END"}});
  const Read got = read(reader, std::string("EN") + kTwoCalls + "D");
  EXPECT_FALSE(reader.stopped());
  EXPECT_EQ(got.content, "END");
  EXPECT_EQ(got.calls.size(), 2u);
}

TEST(AnswerReader, ASingleCallEndsTheAnswer) {
  AnswerReader reader(tokenizer(), {.stop = {}, .single_call = true});
  const Read got = read(reader, std::string("so") + kTwoCalls + "never");
  EXPECT_TRUE(reader.stopped());
  EXPECT_EQ(reader.stop_text(), "");
  EXPECT_EQ(got.calls, std::vector<std::string>{"f"});
  EXPECT_EQ(got.content, "so");
}

TEST(AnswerReader, TextAloneHasNoRolesAndNoSpecialTokens) {
  AnswerReader reader(tokenizer(), {.chat = false, .stop = {"!!"}});
  const std::string text = "a</think><｜User｜>b!";
  EXPECT_EQ(read(reader, text).content, tokenizer().decode(tokenizer().encode(text), true));
}

TEST(AnswerReader, AnAnswerToldToGoOnGoesOnPastTheEndOfSentence) {
  AnswerReader reader(tokenizer(), {});
  EXPECT_EQ(read(reader, "one<｜end▁of▁sentence｜> two").content, "one two");
}

TEST(AnswerReader, BeforeTheLeastLengthNothingStops) {
  AnswerReader reader(tokenizer(), {.stop = {"b"}});
  AnswerReader::Events pieces;
  for (const int32_t id : tokenizer().encode("a b")) reader.push(id, pieces, false);
  EXPECT_FALSE(reader.stopped());
  for (const int32_t id : tokenizer().encode(" c b d")) reader.push(id, pieces, true);
  EXPECT_TRUE(reader.stopped());
  EXPECT_EQ(reader.message().content, "a b c ");
}

}  // namespace
}  // namespace fathom
