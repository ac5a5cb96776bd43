// The event sequence of /v1/responses, and that a stream and a plain answer tell the same.
#include "server/api/responses_writer.h"

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
  OrderedJson response;
};

Told tell(const std::vector<GenerationEvent>& events, bool stream = true) {
  ResponseWriter writer({{"id", "resp_0"}, {"output", nullptr}}, {}, stream, counting_ids());
  std::string bytes = writer.begin();
  for (const GenerationEvent& e : events) bytes += writer.feed(e);
  EXPECT_EQ(bytes.empty(), !stream);
  return {test::sse_events(bytes), writer.response()};
}

std::vector<std::string> types(const Told& told) {
  std::vector<std::string> names;
  for (const OrderedJson& e : told.events) names.push_back(e["type"]);
  return names;
}

TEST(ResponseWriter, TextInOrder) {
  const Told told =
      tell({said({{Kind::content, "Hel"}}), said({{Kind::content, "lo"}}), ended("stop")});
  EXPECT_EQ(types(told),
            (std::vector<std::string>{"response.created", "response.in_progress",
                                      "response.output_item.added", "response.content_part.added",
                                      "response.output_text.delta", "response.output_text.delta",
                                      "response.output_text.done", "response.content_part.done",
                                      "response.output_item.done", "response.completed"}));
  for (size_t i = 0; i < told.events.size(); ++i) EXPECT_EQ(told.events[i]["sequence_number"], i);
  EXPECT_EQ(told.events[0]["response"]["status"], "in_progress");
  EXPECT_EQ(told.events[4]["delta"], "Hel");
  EXPECT_EQ(told.events[4]["item_id"], "msg_1");
  EXPECT_EQ(told.events[6]["text"], "Hello");
  EXPECT_EQ(told.events[8]["item"]["status"], "completed");
  EXPECT_EQ(told.events[9]["response"], told.response);
  EXPECT_EQ(told.response["output"][0]["content"][0]["text"], "Hello");
  EXPECT_EQ(told.response["usage"].dump(),
            R"({"input_tokens":20,"input_tokens_details":{"cached_tokens":8},"output_tokens":5,)"
            R"("output_tokens_details":{"reasoning_tokens":3},"total_tokens":25})");
}

TEST(ResponseWriter, ReasoningTextAndCallsAreItems) {
  const std::vector<GenerationEvent> events = {
      said({{Kind::reasoning, "Hm."}, {Kind::content, "See:"}}),
      said({{Kind::tool_name, "look", 0}, {Kind::tool_arguments, "{\"a\": 1}", 0}}),
      said({{Kind::tool_name, "look", 1}, {Kind::tool_arguments, "{}", 1}}), ended("tool_calls")};
  const Told told = tell(events);
  const OrderedJson& output = told.response["output"];
  ASSERT_EQ(output.size(), 4u);
  EXPECT_EQ(output[0]["type"], "reasoning");
  EXPECT_EQ(output[0]["summary"], OrderedJson::array());
  EXPECT_EQ(output[0]["content"][0]["text"], "Hm.");
  EXPECT_EQ(output[1]["type"], "message");
  EXPECT_EQ(output[2]["arguments"], "{\"a\": 1}");
  EXPECT_EQ(output[3]["arguments"], "{}");
  EXPECT_NE(output[2]["call_id"], output[3]["call_id"]);
  EXPECT_EQ(told.response["status"], "completed");
  size_t added = 0, done = 0;
  for (const OrderedJson& e : told.events) {
    if (e["type"] == "response.output_item.added") {
      EXPECT_EQ(e["output_index"], added++);
    }
    if (e["type"] != "response.output_item.done") continue;
    EXPECT_EQ(e["item"], output[done]);
    EXPECT_EQ(e["output_index"], done++);
  }
  EXPECT_EQ(added, 4u);
  EXPECT_EQ(done, 4u);
  // The same without a stream.
  EXPECT_EQ(tell(events, false).response, told.response);
}

TEST(ResponseWriter, CutAnswersAreIncomplete) {
  const Told told = tell({said({{Kind::reasoning, "Hm"}}), ended("length")});
  EXPECT_EQ(told.response["status"], "incomplete");
  EXPECT_EQ(told.response["incomplete_details"]["reason"], "max_output_tokens");
  EXPECT_EQ(told.response["output"][0]["status"], "incomplete");
  EXPECT_EQ(told.events.back()["type"], "response.incomplete");
}

TEST(ResponseWriter, FailuresEndTheStream) {
  GenerationEvent failed = ended("error");
  failed.failure = Failure{500, "the device gave up"};
  const Told told = tell({said({{Kind::content, "Hel"}}), failed});
  EXPECT_EQ(told.events.back()["type"], "response.failed");
  EXPECT_EQ(told.response["status"], "failed");
  EXPECT_EQ(told.response["error"]["code"], "server_error");
  EXPECT_EQ(told.response["error"]["message"], "the device gave up");
}

TEST(ResponseWriter, AWordlessAnswerIsAMessage) {
  const Told told = tell({ended("stop")});
  ASSERT_EQ(told.response["output"].size(), 1u);
  EXPECT_EQ(told.response["output"][0]["content"][0]["text"], "");
}

}  // namespace
}  // namespace fathom::server
