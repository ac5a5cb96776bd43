// The event sequence of /v1/messages, and that a stream and a plain answer tell the same.
#include "server/api/anthropic_writer.h"

#include <gtest/gtest.h>

#include <vector>

#include "support/generation_events.h"
#include "support/sse_events.h"

namespace fathom::server {
namespace {

using Kind = CompletionEvent::Kind;
using test::counting_ids, test::ended, test::said;

struct Told {
  std::vector<OrderedJson> events;
  OrderedJson message;
};

Told tell(const std::vector<GenerationEvent>& events, bool stream = true, bool omit = false) {
  MessageWriter writer({"msg_0", "small", 20, stream, omit}, counting_ids());
  std::string bytes = writer.begin();
  for (const GenerationEvent& e : events) bytes += writer.feed(e);
  EXPECT_EQ(bytes.empty(), !stream);
  return {test::sse_events(bytes), writer.message()};
}

std::vector<std::string> types(const Told& told) {
  std::vector<std::string> names;
  for (const OrderedJson& e : told.events) {
    std::string name = e["type"];
    if (e.contains("delta") && e["delta"].contains("type")) {
      name = e["delta"]["type"].get<std::string>();
    }
    names.push_back(name);
  }
  return names;
}

const std::vector<GenerationEvent> kWhole = {
    said({{Kind::reasoning, "Hm"}}), said({{Kind::reasoning, "."}, {Kind::content, "See:"}}),
    said({{Kind::tool_name, "look", 0}, {Kind::tool_arguments, "{\"a\": [1, \"x\"]}", 0}}),
    ended("tool_calls")};

TEST(MessageWriter, BlocksInOrder) {
  const Told told = tell(kWhole);
  EXPECT_EQ(types(told),
            (std::vector<std::string>{
                "message_start", "ping", "content_block_start", "thinking_delta", "thinking_delta",
                "signature_delta", "content_block_stop", "content_block_start", "text_delta",
                "content_block_stop", "content_block_start", "input_json_delta",
                "content_block_stop", "message_delta", "message_stop"}));
  EXPECT_EQ(told.events[0]["message"]["usage"]["input_tokens"], 20);
  EXPECT_EQ(told.events[0]["message"]["content"], OrderedJson::array());
  EXPECT_EQ(told.events[10]["index"], 2);
  EXPECT_EQ(told.events[10]["content_block"]["input"], OrderedJson::object());
  EXPECT_EQ(told.events[11]["delta"]["partial_json"], "{\"a\": [1, \"x\"]}");
  EXPECT_EQ(told.events[13]["delta"]["stop_reason"], "tool_use");
  EXPECT_EQ(told.events[13]["usage"]["output_tokens"], 5);
}

TEST(MessageWriter, AMessageAtOnceIsTheSame) {
  const Told told = tell(kWhole, false);
  EXPECT_EQ(told.message, tell(kWhole).message);
  const OrderedJson& content = told.message["content"];
  ASSERT_EQ(content.size(), 3u);
  EXPECT_EQ(content[0]["thinking"], "Hm.");
  EXPECT_FALSE(content[0]["signature"].get<std::string>().empty());
  EXPECT_EQ(content[1]["text"], "See:");
  EXPECT_EQ(content[2]["input"]["a"][1], "x");
  EXPECT_EQ(told.message["usage"]["input_tokens"], 12);
  EXPECT_EQ(told.message["usage"]["cache_read_input_tokens"], 8);
}

TEST(MessageWriter, ThinkingMayBeLeftOut) {
  const Told told = tell(kWhole, true, true);
  EXPECT_EQ(told.message["content"][0]["thinking"], "");
  EXPECT_EQ(types(told)[3], "signature_delta");
}

TEST(MessageWriter, StopReasons) {
  EXPECT_EQ(tell({ended("stop")}).message["stop_reason"], "end_turn");
  EXPECT_EQ(tell({ended("length")}).message["stop_reason"], "max_tokens");
  GenerationEvent stopped = ended("stop");
  stopped.stop_text = "END";
  const Told told = tell({said({{Kind::content, "A"}}), stopped});
  EXPECT_EQ(told.message["stop_reason"], "stop_sequence");
  EXPECT_EQ(told.message["stop_sequence"], "END");
}

TEST(MessageWriter, FailuresEndTheStream) {
  GenerationEvent failed = ended("error");
  failed.failure = Failure{500, "the device gave up"};
  const Told told = tell({said({{Kind::content, "A"}}), failed});
  EXPECT_EQ(told.events.back()["type"], "error");
  EXPECT_EQ(told.events.back()["error"]["type"], "api_error");
  EXPECT_EQ(told.events.back()["error"]["message"], "the device gave up");
}

}  // namespace
}  // namespace fathom::server
