// Messages and tools of /v1/messages as a conversation.
#include "server/api/anthropic_messages.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "server/api/tool_request.h"

namespace fathom::server {
namespace {

Conversation read(const char* json) { return conversation_of_messages(OrderedJson::parse(json)); }

std::string refusal(const char* json) {
  try {
    const OrderedJson request = OrderedJson::parse(json);
    read_tool_use(JsonField(request, ""), Protocol::messages);
    conversation_of_messages(request);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(AnthropicMessages, SystemAndBlocks) {
  const Conversation c = read(R"({
    "system": [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}},
               {"type": "text", "text": "short."}],
    "messages": [{"role": "user", "content": "Hi"},
                 {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "redacted_thinking", "data": "y"},
                    {"type": "text", "text": "Hello."}]},
                 {"role": "user", "content": [{"type": "text", "text": "A"},
                                              {"type": "text", "text": "B"}]}]})");
  ASSERT_EQ(c.size(), 4u);
  EXPECT_EQ(c[0].role, Role::system);
  EXPECT_EQ(c[0].content, "Be\n\nshort.");
  EXPECT_EQ(c[2].reasoning_content, "Hm.");
  EXPECT_EQ(c[2].content, "Hello.");
  EXPECT_EQ(c[3].content, "A\n\nB");
}

TEST(AnthropicMessages, MessagesKnowTheirPlaceInTheRequest) {
  const Conversation c = read(R"({"system": "S", "messages": [{"role": "user", "content": "Q"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "w", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"},
                                 {"type": "text", "text": "Well?"}]}]})");
  std::vector<std::string> places;
  for (size_t i = 0; i < c.size(); ++i) places.push_back(place_of_message(c, i));
  EXPECT_EQ(places, (std::vector<std::string>{"system", "messages[0]", "messages[1]",
                                              "messages[2].content[0]", "messages[2]"}));
}

TEST(AnthropicMessages, ToolsGoRound) {
  const Conversation c = read(R"({"messages": [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": [
      {"type": "tool_use", "id": "toolu_1", "name": "w", "input": {"town": "Ulm", "n": 2}},
      {"type": "tool_use", "id": "toolu_2", "name": "w", "input": {}}]},
    {"role": "user", "content": [
      {"type": "tool_result", "tool_use_id": "toolu_2", "content": "down", "is_error": true},
      {"type": "tool_result", "tool_use_id": "toolu_1", "content": [
        {"type": "text", "text": "rain"}]},
      {"type": "text", "text": "Well?"}]}]})");
  ASSERT_EQ(c.size(), 5u);
  EXPECT_EQ(c[1].tool_calls[0], (ToolCall{"toolu_1", "w", R"({"town": "Ulm", "n": 2})"}));
  EXPECT_EQ(c[2].role, Role::tool);
  EXPECT_EQ(c[2].content, "Error: down");
  EXPECT_EQ(c[3].tool_call_id, "toolu_1");
  EXPECT_EQ(c[4].content, "Well?");
  EXPECT_NO_THROW(check_tool_results(c));
}

TEST(AnthropicMessages, ResultsAloneAreNoTurn) {
  const Conversation c = read(R"({"messages": [
    {"role": "user", "content": "?"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "w", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]})");
  ASSERT_EQ(c.size(), 3u);
  EXPECT_EQ(c[2].role, Role::tool);
  EXPECT_EQ(c[2].content, "");
}

TEST(AnthropicMessages, Functions) {
  const OrderedJson request = OrderedJson::parse(R"({"tools": [
    {"name": "w", "description": "Weather", "input_schema": {"type": "object"}},
    {"type": "custom", "name": "t", "input_schema": {"type": "object", "properties": {}}}]})");
  const std::vector<Tool> tools = read_tool_use(JsonField(request, ""), Protocol::messages).tools;
  ASSERT_EQ(tools.size(), 2u);
  EXPECT_EQ(tools[0].function.dump(),
            R"({"name":"w","description":"Weather","parameters":{"type":"object"}})");
  EXPECT_EQ(tools[1].function["name"], "t");
}

TEST(AnthropicMessages, WhatIsNoTextHasAWordInItsPlace) {
  const Conversation c = read(R"({"messages": [
    {"role": "user", "content": [{"type": "image", "source": {"type": "base64"}},
                                 {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": [
      {"type": "text", "text": "Let me look."},
      {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
      {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
      {"type": "tool_use", "id": "a", "name": "read", "input": {}}]},
    {"role": "user", "content": [
      {"type": "tool_result", "tool_use_id": "a", "content": [
        {"type": "image", "source": {}}, {"type": "text", "text": "a.png"},
        {"type": "tool_reference", "tool_name": "t"}]},
      {"type": "image", "source": {}}]},
    {"role": "system", "content": [{"type": "text", "text": "S"},
                                   {"type": "tool_removal", "tool": {}}]}]})");
  ASSERT_EQ(c.size(), 5u);
  const std::string image = "[image: this model reads text alone]";
  EXPECT_EQ(c[0].content, image + "\n\nWhat is it?");
  EXPECT_EQ(c[1].content, "Let me look.");
  EXPECT_EQ(c[1].tool_calls.size(), 1u);
  EXPECT_EQ(c[2].content, image + "\n\na.png\n\n[tool: t]");
  EXPECT_EQ(c[3].content, image) << "an image beside a result belongs to it";
  EXPECT_EQ(c[4].content, "S");
}

TEST(AnthropicMessages, DocumentsThatAreTextAreRead) {
  const Conversation c = read(R"({"messages": [{"role": "user", "content": [
    {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain",
                                                  "data": "D"}},
    {"type": "document", "source": {"type": "content", "content": [
      {"type": "text", "text": "E"}, {"type": "image", "source": {}}]}},
    {"type": "search_result", "source": "u", "title": "R", "content": [
      {"type": "text", "text": "F"}]},
    {"type": "text", "text": "?"}]}]})");
  EXPECT_EQ(c[0].content, "T\nD\n\nE[image: this model reads text alone]\n\nR\nF\n\n?");
}

TEST(AnthropicMessages, RefusalsNameThePlace) {
  EXPECT_EQ(refusal(R"({})"), "messages: expected an array, found nothing");
  EXPECT_EQ(refusal(R"({"messages": []})"), "messages: expected at least one, found none");
  EXPECT_EQ(refusal(R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})"),
            "messages[0].content[0].type: expected text or tool_result, found 'image'");
  EXPECT_EQ(refusal(R"({"messages": [
                {"role": "user", "content": [{"type": "text", "text": "x"},
                    {"type": "document", "source": {"type": "base64", "data": "JVBERi0="}}]},
                {"role": "system", "content": "y"}]})"),
            "messages[0].content[1].type: expected text or tool_result, found 'document'");
  EXPECT_EQ(refusal(R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant",
                "content": [{"type": "txt", "text": "y"}]}]})"),
            "messages[1].content[0].type: expected text, thinking, redacted_thinking or tool_use, "
            "found 'txt'");
  EXPECT_EQ(refusal(R"({"messages": [{"role": "king", "content": "x"}]})"),
            "messages[0].role: expected user, assistant or system, found 'king'");
  EXPECT_EQ(refusal(R"({"messages": [{"role": "user", "content": [
                {"type": "text", "text": "x"}, {"type": "tool_result", "tool_use_id": "a"}]}]})"),
            "messages[0].content[1]: tool results come before the text of a message");
  EXPECT_EQ(refusal(R"({"tools": [{"type": "web_search_20250305", "name": "web_search"}]})"),
            "tools[0].type: expected 'custom' (a tool with input_schema that the client runs), "
            "found 'web_search_20250305'");
  EXPECT_EQ(refusal(R"({"tools": [{"name": "w"}]})"),
            "tools[0].input_schema: expected an object, found nothing");
  EXPECT_EQ(refusal(R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant",
                "content": [{"type": "tool_use", "id": "a", "name": "w", "input": "{}"}]}]})"),
            "messages[1].content[0].input: expected an object, found a string");
}

}  // namespace
}  // namespace fathom::server
