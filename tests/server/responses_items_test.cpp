// Items of /v1/responses as a conversation.
#include "server/api/responses_items.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace fathom::server {
namespace {

const ItemLookup kNothing = [](const std::string&) { return std::nullopt; };

Conversation read(const char* json, const ItemLookup& lookup = kNothing) {
  Conversation conversation;
  append_items(OrderedJson::parse(json), "input", lookup, {}, conversation);
  return conversation;
}

std::string refusal(const char* json) {
  try {
    read(json);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(ResponsesItems, TextIsTheUsers) {
  const Conversation c = read(R"("Hello")");
  ASSERT_EQ(c.size(), 1u);
  EXPECT_EQ(c[0].role, Role::user);
  EXPECT_EQ(c[0].content, "Hello");
}

TEST(ResponsesItems, RolesAndParts) {
  const Conversation c = read(R"([
    {"role": "developer", "content": "Be short."},
    {"type": "message", "role": "user", "content": [
      {"type": "input_text", "text": "Hel"}, {"type": "input_text", "text": "lo"}]},
    {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
     "content": [{"type": "output_text", "text": "Hi.", "annotations": []}]},
    {"role": "user", "content": "Bye"}])");
  ASSERT_EQ(c.size(), 4u);
  EXPECT_EQ(c[0].role, Role::system);
  EXPECT_EQ(c[1].content, "Hello");
  EXPECT_EQ(c[2].role, Role::assistant);
  EXPECT_EQ(c[2].content, "Hi.");
  EXPECT_EQ(c[3].content, "Bye");
}

TEST(ResponsesItems, OneTurnIsOneMessage) {
  const Conversation c = read(R"([
    {"role": "user", "content": "Weather?"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
      {"type": "reasoning_text", "text": "Two "}, {"type": "reasoning_text", "text": "towns."}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
    {"type": "function_call", "call_id": "a", "name": "w", "arguments": "{\"t\": 1}"},
    {"type": "function_call", "call_id": "b", "name": "w", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "b", "output": "rain"},
    {"type": "function_call_output", "call_id": "a", "output": [
      {"type": "input_text", "text": "sun"}]},
    {"type": "function_call", "call_id": "c", "name": "w", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "fog"}])");
  ASSERT_EQ(c.size(), 6u);
  EXPECT_EQ(c[1].reasoning_content, "Two towns.");
  EXPECT_EQ(c[1].content, "Wait.");
  ASSERT_EQ(c[1].tool_calls.size(), 2u);
  EXPECT_EQ(c[1].tool_calls[0], (ToolCall{"a", "w", "{\"t\": 1}"}));
  EXPECT_EQ(c[2].tool_call_id, "b");
  EXPECT_EQ(c[3].content, "sun");
  ASSERT_EQ(c[4].tool_calls.size(), 1u);
  EXPECT_TRUE(c[4].content.empty());
  EXPECT_EQ(c[5].role, Role::tool);
  EXPECT_NO_THROW(check_tool_results(c));
}

TEST(ResponsesItems, TextBehindCallsStaysWithThem) {
  const Conversation c = read(R"([
    {"type": "function_call", "call_id": "a", "name": "w", "arguments": "{}"},
    {"role": "assistant", "content": "Asked."},
    {"type": "function_call_output", "call_id": "a", "output": "x"}])");
  ASSERT_EQ(c.size(), 2u);
  EXPECT_EQ(c[0].content, "Asked.");
  EXPECT_NO_THROW(check_tool_results(c));
}

TEST(ResponsesItems, TwoAnswersStayTwo) {
  const Conversation c = read(R"([
    {"role": "assistant", "content": "A"}, {"role": "assistant", "content": "B"}])");
  ASSERT_EQ(c.size(), 2u);
  EXPECT_EQ(c[1].content, "B");
}

TEST(ResponsesItems, SummaryStandsInForReasoning) {
  const Conversation c = read(R"([
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Short."}],
     "encrypted_content": "gAAA"},
    {"role": "assistant", "content": "A"}])");
  ASSERT_EQ(c.size(), 1u);
  EXPECT_EQ(c[0].reasoning_content, "Short.");
}

TEST(ResponsesItems, ReferencesAreLookedUp) {
  const ItemLookup lookup = [](const std::string& id) -> std::optional<OrderedJson> {
    if (id != "msg_1") return std::nullopt;
    return OrderedJson::parse(R"({"type": "message", "role": "assistant", "content": [
        {"type": "output_text", "text": "Stored."}]})");
  };
  const Conversation c = read(R"([{"type": "item_reference", "id": "msg_1"}])", lookup);
  ASSERT_EQ(c.size(), 1u);
  EXPECT_EQ(c[0].content, "Stored.");
  EXPECT_EQ(refusal(R"([{"type": "item_reference", "id": "msg_1"}])"),
            "input[0].id: no stored item has the id 'msg_1'");
}

TEST(ResponsesItems, WhatIsNotSaidIsEmpty) {
  const Conversation c = read(R"([
    {"role": "assistant", "content": null},
    {"type": "function_call", "call_id": "a", "name": "w", "arguments": ""},
    {"type": "function_call", "call_id": "b", "name": "w"},
    {"type": "function_call_output", "call_id": "a", "output": "x"}])");
  EXPECT_EQ(c[0].content, "");
  EXPECT_EQ(c[0].tool_calls.at(0).arguments, "{}");
  EXPECT_EQ(c[0].tool_calls.at(1).arguments, "{}");
  // An error about a message names the first item that it is made of.
  EXPECT_EQ(place_of_message(c, 0), "input[0]");
  EXPECT_EQ(place_of_message(c, 1), "input[3]");
}

TEST(ResponsesItems, WhatOtherServersDidIsToldOrSkipped) {
  const OrderedJson items = OrderedJson::parse(R"([
    {"role": "user", "content": "Patch it."},
    {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "gAAA"},
    {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search"}},
    {"type": "compaction", "encrypted_content": "gAAA"},
    {"type": "custom_tool_call", "call_id": "a", "name": "apply_patch", "input": "*** Begin"},
    {"type": "local_shell_call", "call_id": "b", "action": {"type": "exec", "command": ["ls"]}},
    {"type": "custom_tool_call", "call_id": "c", "name": "cut off", "input": ""},
    {"type": "custom_tool_call_output", "call_id": "a", "output": "Done"},
    {"type": "local_shell_call_output", "call_id": "b", "output": {"stdout": "x"}},
    {"type": "custom_tool_call_output", "call_id": "nobody's", "output": "y"},
    {"type": "agent_message", "author": "helper", "recipient": "me", "content": [
      {"type": "input_text", "text": "Ready."}]},
    {"type": "invented_tomorrow", "payload": 7}])");
  Conversation c;
  const std::set<std::string> skipped = append_items(items, "input", kNothing, {}, c);
  ASSERT_EQ(c.size(), 5u);
  EXPECT_EQ(c[1].content + c[1].reasoning_content, "");
  ASSERT_EQ(c[1].tool_calls.size(), 2u);
  EXPECT_EQ(c[1].tool_calls[0].name, "apply_patch");
  EXPECT_EQ(c[1].tool_calls[0].arguments, R"({"input": "*** Begin"})");
  EXPECT_EQ(c[1].tool_calls[1].name, "local_shell");
  EXPECT_EQ(c[1].tool_calls[1].arguments, R"({"action": {"type": "exec", "command": ["ls"]}})");
  EXPECT_EQ(c[2].content, "Done");
  EXPECT_EQ(c[3].content, R"({"stdout": "x"})");
  EXPECT_EQ(c[4].content, "helper: Ready.");
  EXPECT_EQ(skipped,
            (std::set<std::string>{"compaction", "custom_tool_call", "custom_tool_call_output",
                                   "invented_tomorrow", "web_search_call"}));
  check_tool_results(c);
}

// Codex answers the call of its shell as that of a function.
TEST(ResponsesItems, AShellCallMayHaveTheOutputOfAFunction) {
  const Conversation c = read(R"([
    {"role": "user", "content": "List it."},
    {"type": "local_shell_call", "call_id": "a", "status": "completed",
     "action": {"type": "exec", "command": ["ls"]}},
    {"type": "function_call_output", "call_id": "a", "output": "x"}])");
  ASSERT_EQ(c.size(), 3u);
  EXPECT_EQ(c[1].tool_calls.at(0).name, "local_shell");
  EXPECT_EQ(c[2].content, "x");
  EXPECT_NO_THROW(check_tool_results(c));
}

TEST(ResponsesItems, CallsOfNamespacesAreShownFlat) {
  ToolNames names;
  names.add({"a__b"});
  names.add({"b", "a"});
  Conversation c;
  append_items(OrderedJson::parse(R"([
    {"type": "function_call", "call_id": "1", "name": "b", "namespace": "a", "arguments": "{}"},
    {"type": "function_call", "call_id": "2", "name": "x", "namespace": "gone", "arguments": "{}"},
    {"type": "function_call", "call_id": "3", "name": "b", "namespace": null, "arguments": "{}"}])"),
               "input", kNothing, names, c);
  EXPECT_EQ(c[0].tool_calls.at(0).name, "a__b_2");
  EXPECT_EQ(c[0].tool_calls.at(1).name, "gone__x");
  EXPECT_EQ(c[0].tool_calls.at(2).name, "b");
}

TEST(ResponsesItems, ImagesOfTheHistoryHaveAWordInTheirPlace) {
  const Conversation c = read(R"([
    {"role": "user", "content": [{"type": "input_text", "text": "See "}, {"type": "input_image"}]},
    {"type": "function_call", "call_id": "a", "name": "view", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "a", "output": [
      {"type": "input_image", "image_url": "data:"}, {"type": "input_file"}]}])");
  EXPECT_EQ(c[0].content, "See [image: this model reads text alone]");
  EXPECT_EQ(c[2].content,
            "[image: this model reads text alone][file: this model reads text alone]");
}

TEST(ResponsesItems, RefusalsNameThePlace) {
  const std::string deep = "{\\\"a\\\":" + std::string(200'000, '[') + std::string(200'000, ']');
  EXPECT_EQ(refusal((R"([{"type": "function_call", "call_id": "a", "name": "f", "arguments": ")" +
                     deep + "}\"}]")
                        .c_str()),
            "input[0].arguments: nested deeper than 64 levels at byte 68 of the text");
  EXPECT_EQ(refusal("7"), "input: expected a string or a list of items, found an integer");
  EXPECT_EQ(refusal(R"([{"type": "message", "role": "king", "content": ""}])"),
            "input[0].role: expected user, assistant, system or developer, found 'king'");
  EXPECT_EQ(refusal(R"([{"role": "user", "content": [{"type": "input_image"}]}])"),
            "input[0].content[0].type: this model takes text alone: expected input_text or "
            "output_text, found 'input_image'");
  EXPECT_EQ(refusal(R"([{"role": "user", "content": "x", "type": "mesage"}])"),
            "input[0].type: expected message, reasoning, function_call, function_call_output or "
            "item_reference, found 'mesage'");
  EXPECT_EQ(refusal(R"([{"type": "function_call", "name": "f", "arguments": "{}"}])"),
            "input[0].call_id: expected a string, found nothing");
  EXPECT_EQ(refusal(R"([{"role": "user"}])"),
            "input[0].content: expected a string or a list of text parts, found nothing");
  EXPECT_EQ(refusal(R"(["x"])"), "input[0]: expected an object, found a string");
}

}  // namespace
}  // namespace fathom::server
